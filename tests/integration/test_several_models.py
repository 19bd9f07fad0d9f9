"""One worker with several models on a real Redis server, with backends that the test steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common import keys
from common.connection import SyncRedis, connect
from common.errors import ModelLoadError, RedisUnavailableError
from common.event_stream import EventWriter
from common.fleet import FleetWriter, ServedModel, WorkerInfo
from common.job_store import Claim, Claims
from common.model_catalog import CatalogEntry
from common.reaping import Reaping
from common.schemas import JobClass, JobRecord, JobStatus
from common.settings import Settings
from tests.fakes import FakeBackend
from tests.integration.submitting import submit as submit_job
from worker import residency
from worker.backends.base import MemoryShare
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.loader import Loader
from worker.publisher import Publisher
from worker.reaper import Reaper
from worker.registry import ModelBusy, ModelRegistry
from worker.tasks import JobRunner

TIMEOUT_S = 20


def submit(
    client: SyncRedis, model: str, max_tokens: int = 3, job_class: JobClass = "normal"
) -> str:
    return submit_job(client, max_tokens, model=model, job_class=job_class)


class Worker:
    """All parts of a worker but Celery and its heartbeat.

    Attributes:
        backends: The last one of each model.
        unable: Why models cannot be loaded; the test says so.
        shares: The parts of the memory that models were given, in the order of their loads.
    """

    def __init__(self, url: str, models: str, capacity: int) -> None:
        self.client = connect(url)
        self.backends: dict[str, FakeBackend] = {}
        self.unable: dict[str, str] = {}
        self.shares: list[tuple[str, MemoryShare]] = []
        self._changed = threading.Condition()
        self._held = HeldJobs()
        self.claims = Claims(self.client, Settings(_env_file=None), "w")
        entries = [CatalogEntry(m, (), m, "transformers", "", m, max_batch_size=2) for m in models]
        self.models = ModelRegistry(entries, capacity)
        events = EventWriter(self.client)
        self._publisher = Publisher(
            self._held, events, self.claims, self.models.abort, lambda *_: None
        )
        self.runner = JobRunner(
            *(self.models, self._held, self.claims, events, lambda *_: None),
            default_max_tokens=4,
        )
        self.loader = Loader(
            self.models,
            self._create_host,
            FleetWriter(self.client),
            self._publisher,
            self._note_change,
            lambda model: None,
            self._held,
            self.runner.give_way,
        )

    def start(self) -> None:
        self._publisher.start()
        self.loader.start()

    def stop(self) -> None:
        self.runner.drain()
        self.loader.stop()
        self.models.stop()
        self._publisher.stop()
        self.client.close()

    def _create_host(self, model: str, share: MemoryShare) -> EngineHost:
        if model in self.unable:
            raise ModelLoadError(self.unable[model])
        self.shares.append((model, share))
        self.backends[model] = FakeBackend(model)
        return EngineHost(self.backends[model], self._held)

    def _note_change(self) -> None:
        """What the worker's heartbeat does: tell all others."""
        info = WorkerInfo("w", "h", 1, "0", "cpu", 8, 0, self.announced)
        self.claims.heartbeat(info.pack(), self._held.holdings())
        with self._changed:
            self._changed.notify_all()

    @property
    def announced(self) -> dict[str, ServedModel]:
        return self.models.announcements(is_consuming=True)

    @property
    def states(self) -> dict[str, str]:
        return {model: served.state for model, served in self.announced.items()}

    def wait_until(self, **states: str) -> None:
        """Wait until it announces these states."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: states.items() <= self.states.items(), TIMEOUT_S
            ), self.states

    def start_task(self, model: str) -> threading.Thread:
        """What Celery does with a permit; returns once the job is in the engine."""
        task = threading.Thread(target=self.runner.run_next, args=(model,), daemon=True)
        task.start()
        self.backends[model].submitted.get(timeout=TIMEOUT_S)
        return task

    def run(self, model: str, steps: int = 3) -> None:
        """Run the model's next job to its end."""
        task = self.start_task(model)
        self.backends[model].step(steps)
        task.join(TIMEOUT_S)
        assert not task.is_alive()

    def record(self, job_id: str) -> JobRecord:
        return JobRecord.from_fields(job_id, self.client.hgetall(keys.job(job_id)))

    def status(self, job_id: str) -> JobStatus:
        return self.record(job_id).status


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(redis_url: str) -> Iterator[StartWorker]:
    started: list[Worker] = []

    def start(models: str, capacity: int, **unable: str) -> Worker:
        worker = Worker(redis_url, models, capacity)
        worker.unable = unable
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        worker.stop()


def test_two_models_run_their_jobs_side_by_side(start_worker: StartWorker) -> None:
    worker = start_worker("ab", 2)
    worker.wait_until(a="ready", b="ready")
    first, second = submit(worker.client, "a"), submit(worker.client, "b")
    slow = worker.start_task("a")
    worker.run("b")
    assert (worker.status(first), worker.status(second)) == ("processing", "completed")
    worker.backends["a"].step(3)
    slow.join(TIMEOUT_S)
    assert worker.status(first) is JobStatus.COMPLETED


def test_a_job_loads_its_model_and_the_one_that_was_used_longest_ago_is_closed(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("abc", 2)
    worker.wait_until(a="ready", b="ready", c="unloaded")
    submit(worker.client, "a")
    worker.run("a")
    job_id = submit(worker.client, "c")
    worker.wait_until(a="ready", b="unloaded", c="ready")
    assert worker.backends["b"].is_closed
    assert not worker.backends["a"].is_closed
    worker.run("c")
    assert worker.status(job_id) is JobStatus.COMPLETED


def test_a_model_that_runs_a_job_is_not_unloaded_until_it_has_ended(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("ab", 1)
    worker.wait_until(a="ready")
    running = submit(worker.client, "a")
    task = worker.start_task("a")
    waiting = submit(worker.client, "b")
    with pytest.raises(ModelBusy):
        worker.runner.run_next("b")
    worker.backends["a"].step(3)
    task.join(TIMEOUT_S)
    worker.wait_until(a="unloaded", b="ready")
    assert worker.status(running) is JobStatus.COMPLETED
    worker.run("b")
    assert worker.status(waiting) is JobStatus.COMPLETED


def test_a_model_that_is_never_idle_gives_way_in_the_end(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "SWAP_AFTER_S", 0.5)
    worker = start_worker("ab", 1)
    worker.wait_until(a="ready")
    for _ in range(2):
        submit(worker.client, "a")
    task = worker.start_task("a")
    waiting = submit(worker.client, "b")
    with worker._changed:  # it takes no more jobs, though one of its own waits
        assert worker._changed.wait_for(lambda: not worker.models.takes_jobs("a"), TIMEOUT_S)
    with pytest.raises(ModelBusy):
        worker.runner.run_next("a")
    worker.client.delete(keys.permits("a"))
    worker.backends["a"].step(3)
    task.join(TIMEOUT_S)  # nor does the task go on, though no permit is left
    assert not task.is_alive()
    worker.wait_until(a="unloaded", b="ready")
    worker.run("b")
    assert worker.status(waiting) is JobStatus.COMPLETED
    worker.wait_until(a="ready")
    worker.run("a")


def test_low_jobs_give_way_at_once_to_a_normal_one_of_another_model_and_go_on_where_they_were(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "SWAP_AFTER_S", 3600)
    monkeypatch.setattr(residency, "LEAST_TURN_S", 0)
    worker = start_worker("ab", 1)
    worker.wait_until(a="ready")
    low = [submit(worker.client, "a", 4, "low") for _ in range(5)]
    tasks = [worker.start_task("a") for _ in range(2)]
    worker.backends["a"].step(2)
    urgent = submit(worker.client, "b")
    worker.wait_until(a="unloaded", b="ready")
    for task in tasks:
        task.join(TIMEOUT_S)
        assert not task.is_alive()
    assert [worker.status(job_id) for job_id in low] == ["queued"] * 5
    worker.run("b")
    assert worker.status(urgent) is JobStatus.COMPLETED
    worker.wait_until(b="unloaded", a="ready")
    for job_id in low:
        worker.run("a", 4)
        record = worker.record(job_id)
        assert record.status is JobStatus.COMPLETED
        assert (record.choices[0].text, record.attempts) == ("0 1 2 3 end", 1)


def test_a_job_that_is_claimed_while_its_model_begins_to_give_way_is_handed_back(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("ab", 2)
    worker.wait_until(a="ready", b="ready")
    low, high = submit(worker.client, "a", 3, "low"), submit(worker.client, "b", 3, "high")
    claim = worker.claims.claim

    def claim_late(*args: Any) -> Claim | None:
        for model in "ab":
            worker.models.hold(model, is_held=True, yields_to="normal")
            worker.runner.give_way(model)
        return claim(*args)

    worker.claims.claim = claim_late  # type: ignore[method-assign]
    task = threading.Thread(target=worker.runner.run_next, args=("a",), daemon=True)
    task.start()
    task.join(TIMEOUT_S)
    assert not task.is_alive()
    assert worker.status(low) is JobStatus.QUEUED
    for model in "ab":
        worker.models.hold(model, is_held=False)
    task = worker.start_task("b")
    assert worker.status(high) is JobStatus.PROCESSING, "its class is not lower"
    worker.backends["b"].step(3)
    task.join(TIMEOUT_S)


def test_while_redis_is_away_no_job_is_handed_back(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker("ab", 2)
    worker.wait_until(a="ready")
    low = submit(worker.client, "a", 3, "low")
    task = worker.start_task("a")

    def away(*_: Any) -> str:
        raise RedisUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(worker.claims, "release", away)
        worker.models.hold("a", is_held=True, yields_to="normal")
        worker.runner.give_way("a")
    worker.backends["a"].step(3)
    task.join(TIMEOUT_S)
    assert worker.status(low) is JobStatus.COMPLETED


def test_a_model_that_cannot_be_loaded_fails_its_own_jobs_alone(
    start_worker: StartWorker, client: SyncRedis
) -> None:
    worker = start_worker("ab", 2, b="Model loading failed: no such folder")
    worker.wait_until(a="ready", b="error")
    assert worker.announced["b"].reason == "Model loading failed: no such folder"
    good, bad = submit(client, "a"), submit(client, "b")
    ended = threading.Event()
    settings = Settings(_env_file=None, lease_s=1)
    reaper = Reaper(
        *(Reaping(client, settings), worker.claims, worker.models.errors),
        lambda record, outcome: ended.set(),
    )
    reaper.start()
    assert ended.wait(TIMEOUT_S)
    reaper.stop()
    assert (worker.status(good), worker.status(bad)) == ("queued", "failed")
    worker.run("a")
    assert worker.status(good) is JobStatus.COMPLETED


def test_a_task_of_a_crowded_model_goes_on_by_itself(start_worker: StartWorker) -> None:
    worker = start_worker("ab", 2)
    worker.wait_until(a="ready")
    ids = [submit(worker.client, "a", 1) for _ in range(4)]
    assert worker.claims.num_permits("a") == 4  # they rest in the list meanwhile
    tasks = [worker.start_task("a") for _ in range(2)]
    with pytest.raises(ModelBusy):
        worker.runner.run_next("a")
    worker.backends["a"].step()
    for _ in range(2):
        worker.backends["a"].submitted.get(timeout=TIMEOUT_S)
    worker.backends["a"].step()
    for task in tasks:
        task.join(TIMEOUT_S)
    assert [worker.status(job_id) for job_id in ids] == ["completed"] * 4


def test_models_share_the_memory_by_how_many_may_be_loaded(start_worker: StartWorker) -> None:
    worker = start_worker("abc", 2)
    worker.wait_until(a="ready", b="ready")
    assert worker.shares == [("a", MemoryShare(2, 0)), ("b", MemoryShare(2, 1))]


def test_a_job_whose_model_was_unloaded_waits_where_it_was(start_worker: StartWorker) -> None:
    worker = start_worker("ab", 1)
    worker.wait_until(a="ready")
    submit(worker.client, "b")
    worker.wait_until(b="ready")
    worker.run("b")
    job_id = submit(worker.client, "a")
    with pytest.raises(ModelBusy):
        worker.runner.run_next("a")
    assert worker.status(job_id) is JobStatus.QUEUED
    worker.wait_until(a="ready")
    worker.run("a")
    assert worker.status(job_id) is JobStatus.COMPLETED
