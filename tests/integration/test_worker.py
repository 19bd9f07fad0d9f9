"""A worker's own threads on a real Redis server, with a backend that the test steps by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import pytest

from common import keys
from common.connection import connect
from common.errors import ModelLoadError
from common.event_stream import EventWriter
from common.events import RestartEvent, TokenEvent, unpack_event
from common.fleet import FleetWriter
from common.job_store import Claim, Claims
from common.model_catalog import CatalogEntry
from common.prompt import PromptEncoder
from common.reaping import Reaping
from common.schemas import JobRecord, JobStatus, Outcome, Prompt
from common.settings import Settings
from tests.fakes import FakeBackend, byte_tokenizer, fake_card
from tests.integration.submitting import submit
from tests.redis_server import RedisServer
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.publisher import Publisher
from worker.registry import ModelRegistry
from worker.tasks import Draining, JobRunner

TIMEOUT_S = 20


class WorkerUnderTest:
    """All parts of a worker but Celery, its heartbeat and its reaper."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url)
        self.ended: list[tuple[JobRecord, Outcome]] = []
        self.held = HeldJobs()
        self.backend = FakeBackend()
        self.claims = Claims(self.client, Settings(), "w")
        events = EventWriter(self.client)
        self.host = EngineHost(self.backend, self.held)
        entry = CatalogEntry("m", (), "m", "transformers", "", "M")
        models = ModelRegistry([entry], 1)
        self.publisher = Publisher(self.held, events, self.claims, models.abort, self._note_end)
        self.runner = JobRunner(
            models,
            self.held,
            self.claims,
            events,
            self._note_end,
            default_max_tokens=4,
        )
        self.host.load(FleetWriter(self.client), threading.Event())
        self.publisher.start()
        self.host.start(self.publisher)
        models.put("m", self.host, load_s=0)

    def _note_end(self, record: JobRecord, outcome: Outcome) -> None:
        self.ended.append((record, outcome))

    def stop(self) -> None:
        self.host.stop()
        self.publisher.stop()
        self.client.close()

    def start_task(self) -> threading.Thread:
        """What Celery does with a permit."""
        thread = threading.Thread(target=self._run_task, daemon=True)
        thread.start()
        return thread

    def _run_task(self) -> None:
        try:
            self.runner.run_next("m")
        except Draining:
            return

    def run(self, steps: int) -> None:
        """Run the next job to its end."""
        task = self.start_task()
        self.backend.submitted.get(timeout=TIMEOUT_S)
        self.backend.step(steps)
        task.join(TIMEOUT_S)
        assert not task.is_alive()

    def wait_until_committed(self, job_id: str, count: int) -> None:
        """Wait for the doorbell that calls out the `count`-th token."""
        with self.client.pubsub(ignore_subscribe_messages=False) as bell:  # type: ignore[no-untyped-call]
            bell.subscribe(keys.bell(job_id))
            bell.get_message(timeout=TIMEOUT_S)
            while int(self.client.hget(keys.job(job_id), "pos:0") or 0) < count:
                assert bell.get_message(timeout=TIMEOUT_S) is not None

    def record(self, job_id: str) -> JobRecord:
        return JobRecord.from_fields(job_id, self.client.hgetall(keys.job(job_id)))

    def stream_text(self, job_id: str) -> str:
        """What a watcher from the start has read."""
        text = ""
        for _, entry in self.client.xrange(keys.events(job_id)):
            event = unpack_event(entry["d"])
            text += "".join(event.texts) if isinstance(event, TokenEvent) else event.tails[0]
        return text


@pytest.fixture
def worker(redis_url: str) -> Iterator[WorkerUnderTest]:
    worker = WorkerUnderTest(redis_url)
    yield worker
    worker.stop()


def test_a_job_runs_to_its_end_and_its_stream_is_its_result(worker: WorkerUnderTest) -> None:
    job_id = submit(worker.client)
    worker.run(steps=3)
    record = worker.record(job_id)
    assert record.status is JobStatus.COMPLETED
    assert record.choices[0].text == "0 1 2 end"
    assert record.choices[0].token_ids == (0, 1, 2)
    assert worker.stream_text(job_id) == "0 1 2 end"
    assert [outcome.status for _, outcome in worker.ended] == ["completed"]


def test_a_task_goes_on_while_jobs_are_ready_and_no_permit_is_left(
    worker: WorkerUnderTest,
) -> None:
    first, second = submit(worker.client, 1), submit(worker.client, 1)
    worker.client.delete(keys.permits("m"))
    task = worker.start_task()
    for _ in range(2):
        worker.backend.submitted.get(timeout=TIMEOUT_S)
        worker.backend.step()
    task.join(TIMEOUT_S)
    assert worker.record(first).status is JobStatus.COMPLETED
    assert worker.record(second).status is JobStatus.COMPLETED


def test_a_spare_permit_does_nothing(worker: WorkerUnderTest) -> None:
    worker.runner.run_next("m")
    assert worker.ended == []


def test_a_job_accepted_before_any_worker_is_encoded_by_the_one_that_claims_it(
    worker: WorkerUnderTest,
) -> None:
    prompt = Prompt(text="hi", raw=True)
    job_id = submit(worker.client, None, prompt_ids=None, prompt=prompt)
    task = worker.start_task()
    job = worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(4)
    task.join(TIMEOUT_S)
    assert len(job.prompt_ids) == 2
    assert job.sampling.max_tokens == 4  # MAX_NEW_TOKENS, which the context holds
    assert worker.record(job_id).prompt_tokens == 2


def test_a_prompt_that_no_gateway_could_check_fails_its_job_alone(
    worker: WorkerUnderTest,
) -> None:
    prompt = Prompt(text="x" * 101, raw=True)
    job_id = submit(worker.client, 4, prompt_ids=None, prompt=prompt)
    worker.client.delete(keys.permits("m"))
    worker.runner.run_next("m")
    record = worker.record(job_id)
    assert (record.status, record.error_type) == ("failed", "ContextLengthError")
    assert record.error_param == "prompt"
    assert record.error_message is not None
    assert "101" in record.error_message
    assert "100" in record.error_message


def test_a_cancelled_job_stops_in_the_engine_and_keeps_what_it_had(
    worker: WorkerUnderTest,
) -> None:
    job_id = submit(worker.client, 50)
    task = worker.start_task()
    run_id = worker.backend.submitted.get(timeout=TIMEOUT_S).run_id
    worker.backend.step()
    worker.wait_until_committed(job_id, 1)
    worker.client.hset(keys.job(job_id), "cancel", 1)
    worker.backend.step()  # the answer to this append says so
    assert worker.backend.aborted.get(timeout=TIMEOUT_S) == run_id
    task.join(TIMEOUT_S)
    record = worker.record(job_id)
    assert (record.status, record.choices[0].text) == ("cancelled", "0 1 ")


def test_a_job_that_went_to_another_worker_is_dropped_and_not_doubled(
    worker: WorkerUnderTest,
) -> None:
    job_id = submit(worker.client, 50)
    task = worker.start_task()
    run_id = worker.backend.submitted.get(timeout=TIMEOUT_S).run_id
    worker.backend.step()
    worker.wait_until_committed(job_id, 1)
    worker.client.hset(keys.job(job_id), "nonce", "another claim")
    worker.backend.step()
    assert worker.backend.aborted.get(timeout=TIMEOUT_S) == run_id
    task.join(TIMEOUT_S)
    assert worker.stream_text(job_id) == "0 "
    assert len(worker.held) == 0


def test_output_of_a_lost_claim_does_not_reach_the_same_workers_next_claim(
    worker: WorkerUnderTest,
) -> None:
    job_id = submit(worker.client, 5)
    first = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(2)
    worker.wait_until_committed(job_id, 2)
    # The lease passes unnoticed: the job is back in its line, and this worker takes it again.
    worker.client.zadd(keys.LEASES, {job_id: 1})
    worker.client.set(keys.REAPED, 2**53)
    Reaping(worker.client, Settings()).reap()
    second = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(3)  # both runs make tokens
    first.join(TIMEOUT_S)
    second.join(TIMEOUT_S)
    assert worker.stream_text(job_id) == "0 1 2 3 4 end"
    assert worker.record(job_id).status is JobStatus.COMPLETED


def test_draining_hands_jobs_back_and_the_next_worker_goes_on_where_they_were(
    worker: WorkerUnderTest, redis_url: str
) -> None:
    job_id = submit(worker.client, 5)
    task = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(2)
    worker.wait_until_committed(job_id, 2)
    worker.runner.drain()
    task.join(TIMEOUT_S)
    assert worker.record(job_id).status is JobStatus.QUEUED

    heir = WorkerUnderTest(redis_url)
    heir.run(steps=3)
    record = heir.record(job_id)
    heir.stop()
    assert record.choices[0].text == "0 1 2 3 4 end"
    assert worker.stream_text(job_id) == "0 1 2 3 4 end"
    assert record.attempts == 1


def test_a_job_claimed_while_the_worker_began_to_drain_is_handed_back(
    worker: WorkerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(worker.client, 50)
    claim = worker.claims.claim

    def claim_then_drain(models: Mapping[str, str], nonce: str | None = None) -> Claim | None:
        claimed = claim(models, nonce)
        worker.runner.drain()  # the job is claimed, and not held yet
        return claimed

    monkeypatch.setattr(worker.claims, "claim", claim_then_drain)
    task = worker.start_task()
    task.join(TIMEOUT_S)
    assert not task.is_alive()
    assert worker.record(job_id).status is JobStatus.QUEUED
    assert len(worker.held) == 0


def test_a_template_that_raises_fails_its_job_alone(worker: WorkerUnderTest) -> None:
    worker.host.encoder = PromptEncoder(
        fake_card(chat_template="{{ 1 / (messages | length - 1) }}"),
        byte_tokenizer(),
    )
    job_id = submit(worker.client, 4, prompt_ids=None, prompt=Prompt(text="hi"))
    worker.client.delete(keys.permits("m"))
    worker.runner.run_next("m")
    record = worker.record(job_id)
    assert (record.status, record.error_type) == ("failed", "InvalidRequestError")
    assert record.error_param == "messages"


def test_a_model_whose_template_cannot_be_compiled_is_not_loaded_and_its_card_not_published(
    redis_url: str,
) -> None:
    backend = FakeBackend(chat_template="{% if %}")
    host = EngineHost(backend, HeldJobs())
    with connect(redis_url) as client:
        with pytest.raises(ModelLoadError, match="chat template"):
            host.load(FleetWriter(client), threading.Event())
        assert client.get(keys.card("m")) is None
    assert backend.is_closed


@pytest.mark.leaves_debris("it deletes a stream", "event_ids")
def test_a_job_whose_tokens_somebody_deleted_starts_from_nothing(
    worker: WorkerUnderTest,
) -> None:
    job_id = submit(worker.client, 5)
    task = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(2)
    worker.wait_until_committed(job_id, 2)
    worker.runner.drain()
    task.join(TIMEOUT_S)
    worker.client.delete(keys.events(job_id))
    heir = WorkerUnderTest(worker.url)
    heir.run(steps=5)
    record = heir.record(job_id)
    heir.stop()
    assert record.choices[0].text == "0 1 2 3 4 end"


def test_a_worker_on_which_the_committed_tokens_give_another_text_starts_from_nothing(
    worker: WorkerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(worker.client, 5)
    task = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(2)
    worker.wait_until_committed(job_id, 2)
    worker.runner.drain()
    task.join(TIMEOUT_S)
    heir = WorkerUnderTest(worker.url)
    monkeypatch.setattr(heir.backend, "text_of_committed", lambda job: "another text")
    heir.run(steps=5)
    events = [unpack_event(entry["d"]) for _, entry in heir.client.xrange(keys.events(job_id))]
    record = heir.record(job_id)
    heir.stop()
    assert any(isinstance(event, RestartEvent) for event in events)
    assert record.choices[0].text == "0 1 2 3 4 end"
    assert record.completion_tokens == 5


def test_a_draining_worker_lets_a_job_end_that_needs_little_more(
    worker: WorkerUnderTest,
) -> None:
    job_id = submit(worker.client, 3)
    task = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(2)
    worker.wait_until_committed(job_id, 2)
    drain = threading.Thread(target=worker.runner.drain, args=(TIMEOUT_S,))
    drain.start()
    worker.backend.step()
    task.join(TIMEOUT_S)
    drain.join(TIMEOUT_S)
    assert worker.record(job_id).status is JobStatus.COMPLETED


def test_a_draining_worker_claims_nothing(worker: WorkerUnderTest) -> None:
    submit(worker.client)
    worker.runner.drain()
    with pytest.raises(Draining):
        worker.runner.run_next("m")


def test_output_made_while_redis_was_away_arrives_whole_when_it_is_back(
    own_redis: RedisServer,
) -> None:
    worker = WorkerUnderTest(own_redis.url)
    job_id = submit(worker.client, 6)
    task = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step()
    worker.wait_until_committed(job_id, 1)
    own_redis.stop()
    worker.backend.step(5)
    own_redis.start()
    task.join(TIMEOUT_S)
    assert worker.stream_text(job_id) == "0 1 2 3 4 5 end"
    assert worker.record(job_id).status is JobStatus.COMPLETED
    worker.stop()
