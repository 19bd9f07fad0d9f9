"""A worker with one real embedding model: all of its parts but Celery, in threads of the test."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

from common.cancellations import Cancellations
from common.connection import connect
from common.errors import RedisUnavailableError
from common.event_stream import EventWriter
from common.fleet import FleetWriter, WorkerInfo
from common.job_store import Claims
from common.model_catalog import CatalogEntry
from common.settings import Settings
from worker.backends.base import MemoryShare
from worker.backends.embedding import EmbeddingBackend
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.leases import Heartbeat
from worker.loader import Loader
from worker.publisher import Publisher
from worker.registry import ModelBusy, ModelRegistry
from worker.scoring.roster import ScorerRoster
from worker.scoring.storage import ScorerFiles
from worker.tasks import Draining, JobRunner

MODEL = "embedder"
TIMEOUT_S = 60
NUM_TASKS = 4


class EmbeddingWorker:
    """Runs embedding jobs inside its `with` block.

    Attributes:
        backend: Of the model.
        held: Its jobs.
        roster: Its scorers.
    """

    def __init__(self, settings: Settings, path: Path, name: str = "embeds") -> None:
        url = str(settings.redis_url)
        self._name = name
        self._client = connect(url)
        self.held = HeldJobs()
        self.claims = Claims(self._client, settings, name)
        self._entry = CatalogEntry(
            *(MODEL, (), str(path), "transformers", "", MODEL),
            kind="embed",
            max_batch_size=NUM_TASKS,
        )
        self._models = ModelRegistry([self._entry], 1)
        self.backend = EmbeddingBackend(self._entry, settings)
        self.roster = ScorerRoster(
            ScorerFiles(settings.scorers_dir),
            [self._entry],
            FleetWriter(self._client),
            lambda: None,
        )
        events = EventWriter(self._client)
        self._publisher = Publisher(
            self.held, events, self.claims, self._models.abort, lambda *_: None
        )
        self._heartbeat = Heartbeat(
            *(self.claims, Cancellations(connect(url)), self.held, self._describe),
            *(lambda: 0.0, self._models.abort, lambda: None),
            lease_s=settings.lease_s,
            engine_stall_s=settings.engine_stall_s,
        )
        self._loaded = threading.Event()
        self._runner = JobRunner(
            *(self._models, self.held, self.claims, events, lambda *_: None), default_max_tokens=4
        )
        self._loader = Loader(
            *(self._models, self._create_host, FleetWriter(self._client), self._publisher),
            self._heartbeat.beat_soon,
            lambda model: self._loaded.set(),
            self.held,
            self._runner.give_way,
        )
        self._stop = threading.Event()
        self._tasks = [threading.Thread(target=self._work, daemon=True) for _ in range(NUM_TASKS)]

    def __enter__(self) -> Self:
        self._publisher.start()
        self._loader.start()
        assert self._loaded.wait(TIMEOUT_S)
        self._heartbeat.start()
        self.announce()
        for task in self._tasks:
            task.start()
        return self

    def announce(self) -> None:
        """Look at the scorers, and tell what there is."""
        self.roster.look()
        self._heartbeat.beat()

    def leave_alone(self) -> None:
        """Take no more jobs."""
        self._stop.set()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._runner.drain()
        self._loader.stop()
        self._models.stop()
        self._heartbeat.stop()
        for task in self._tasks:
            task.join(TIMEOUT_S)
        self._publisher.stop()
        self.claims.leave()
        self._client.close()

    def _create_host(self, model: str, share: MemoryShare) -> EngineHost:
        return EngineHost(self.backend, self.held)

    def _describe(self) -> WorkerInfo:
        models = self._models.announcements(is_consuming=True)
        info = WorkerInfo(self._name, "here", 1, "0", "cpu", NUM_TASKS, len(self.held), models)
        return replace(info, scorers=self.roster.announced)

    def _work(self) -> None:
        """What Celery does, without permits: look for a job now and then."""
        while not self._stop.wait(0.005):
            try:
                self._runner.run_next(MODEL)
            except (ModelBusy, RedisUnavailableError):
                continue
            except Draining:
                return
