"""A worker whose model other servers run, on a real Redis: all of it but Celery and its beats."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from common import keys
from common.connection import connect
from common.event_stream import EventWriter
from common.events import EndEvent, Event, RestartEvent, TokenEvent, unpack_event
from common.fleet import FleetWriter
from common.job_store import Claims
from common.model_catalog import CatalogEntry
from common.sampling import SamplingSpec
from common.schemas import JobRecord, Outcome, Prompt
from common.settings import Settings
from tests.integration.submitting import submit
from tests.scripted_upstream import MODEL
from worker.backends.openai_wire import OpenAIWire
from worker.backends.upstream import UpstreamBackend
from worker.backends.wire import Wire
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.publisher import Publisher
from worker.registry import ModelRegistry
from worker.tasks import Draining, JobRunner

TIMEOUT_S = 20
RAW = Prompt(text="hi", raw=True)


class HasUrl(Protocol):
    """A server of the tests'."""

    url: str


class UpstreamWorker:
    """Runs jobs of the model `m` on servers of the tests'."""

    def __init__(
        self,
        url: str,
        *upstreams: HasUrl,
        name: str = "w",
        wire: Wire | None = None,
        **more: Any,
    ) -> None:
        settings = Settings(**({"upstream_retry_s": 10.0} | more))
        self.client = connect(url)
        self.fleet = FleetWriter(self.client)
        self.ended: list[tuple[JobRecord, Outcome]] = []
        self.held = HeldJobs()
        self.claims = Claims(self.client, settings, name)
        events = EventWriter(self.client)
        urls = tuple(upstream.url for upstream in upstreams)
        self.entry = CatalogEntry(MODEL, (), MODEL, "openai", "", "M", base_urls=urls)
        self.backend = UpstreamBackend(self.entry, settings, wire or OpenAIWire(), "secret")
        self.host = EngineHost(self.backend, self.held)
        self.models = ModelRegistry([self.entry], 1)
        self.publisher = Publisher(self.held, events, self.claims, self.models.abort, self._note)
        self.runner = JobRunner(
            self.models, self.held, self.claims, events, self._note, default_max_tokens=16
        )
        self.host.load(self.fleet, threading.Event())
        self.publisher.start()
        self.host.start(self.publisher)
        self.models.put(MODEL, self.host, load_s=0)

    def _note(self, record: JobRecord, outcome: Outcome) -> None:
        self.ended.append((record, outcome))

    def stop(self) -> None:
        """End it in good order; jobs that run are left as they are."""
        self.host.stop()
        self.publisher.stop()
        self.client.close()

    def submit(self, prompt: Prompt = RAW, **sampling: Any) -> str:
        """Put a job in line; its id."""
        values = {"max_tokens": 50, "time_limit_s": 60, "seed": 1} | sampling
        return submit(self.client, prompt_ids=None, prompt=prompt, sampling=SamplingSpec(**values))

    def start_task(self) -> threading.Thread:
        """What Celery does with a permit."""
        self.client.delete(keys.permits(MODEL))
        thread = threading.Thread(target=self._run_task, daemon=True)
        thread.start()
        return thread

    def _run_task(self) -> None:
        try:
            self.runner.run_next(MODEL)
        except Draining:
            return

    def run(self, prompt: Prompt = RAW, **sampling: Any) -> JobRecord:
        """Run a job to its end."""
        job_id = self.submit(prompt, **sampling)
        self.join(self.start_task())
        return self.record(job_id)

    def join(self, task: threading.Thread) -> None:
        """Wait for the end of a task."""
        task.join(TIMEOUT_S)
        assert not task.is_alive()

    def wait_until_committed(self, job_id: str, count: int, choice: int = 0) -> None:
        """Wait until Redis has so many pieces of a choice."""
        with self.client.pubsub(ignore_subscribe_messages=False) as bell:  # type: ignore[no-untyped-call]
            bell.subscribe(keys.bell(job_id))
            bell.get_message(timeout=TIMEOUT_S)
            deadline = time.monotonic() + TIMEOUT_S
            while int(self.client.hget(keys.job(job_id), f"pos:{choice}") or 0) < count:
                assert time.monotonic() < deadline
                bell.get_message(timeout=0.2)

    def wait_until_away(self, *, is_away: bool) -> None:
        """Wait until the pool knows that its servers have gone, or come back."""
        deadline = time.monotonic() + TIMEOUT_S
        while (self.backend.away is not None) != is_away:
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)

    def record(self, job_id: str) -> JobRecord:
        """The job as it stands."""
        return JobRecord.from_fields(job_id, self.client.hgetall(keys.job(job_id)))

    def events(self, job_id: str) -> list[Event]:
        """The job's stream."""
        entries = self.client.xrange(keys.events(job_id))
        return [unpack_event(entry["d"]) for _, entry in entries]

    def texts_of_watcher(self, job_id: str) -> tuple[list[str], int]:
        """What a watcher from the start has of each choice, and how often the job restarted."""
        num_restarts, texts = 0, [""] * self.record(job_id).sampling.n
        for event in self.events(job_id):
            if isinstance(event, RestartEvent):
                num_restarts, texts = num_restarts + 1, [""] * len(texts)
            elif isinstance(event, TokenEvent):
                texts[event.choice] += "".join(event.texts)
            elif isinstance(event, EndEvent):
                texts = [a + b for a, b in zip(texts, event.tails, strict=True)]
        return texts, num_restarts
