"""A backend with an encoder beside it: who runs what, and when the encoder is loaded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from common.errors import ModelLoadError
from common.model_card import ModelCard
from common.sampling import SamplingSpec
from common.schemas import JobStatus
from common.scorers import ScoringTask
from common.vitals import EngineStats
from worker.backends.base import BackendEnd, BackendJob, Deliver, Delta
from worker.backends.with_encoder import BackendWithEncoder

TIMEOUT_S = 30
END = BackendEnd(JobStatus.COMPLETED, "stop")


class FakeBackend:
    """Ends each job at once, in the order of what it was told."""

    def __init__(self, error: ModelLoadError | None = None) -> None:
        self.error = error
        self.taken: list[str] = []
        self.step_s = 0.0
        self.device = "cpu"
        self.is_closed = False
        self.may_load = threading.Event()
        self.may_load.set()
        self._commands: queue.SimpleQueue[tuple[str, BackendEnd] | None] = queue.SimpleQueue()

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str]:
        assert self.may_load.wait(TIMEOUT_S)
        if self.error is not None:
            raise self.error
        return None, ""  # type: ignore[return-value]  # nobody reads the encoder's card

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        while not stop.is_set():
            if (command := self._commands.get()) is not None:
                deliver([Delta(command[0], 0, (), (), 0.0, command[1])])

    def text_of_committed(self, job: BackendJob) -> str | None:
        return "of the inner"

    def submit(self, job: BackendJob) -> None:
        self.taken.append(job.run_id)
        self._commands.put((job.run_id, END))

    def abort(self, run_id: str) -> None:
        self.taken.append(f"abort {run_id}")

    def wake(self) -> None:
        self._commands.put(None)

    def close(self) -> None:
        self.is_closed = True

    def gpu_memory(self) -> dict[str, int] | None:
        return None

    def stats(self) -> EngineStats | None:
        return None


class Harness:
    """The backend on a thread of its own, with two fakes inside."""

    def __init__(self) -> None:
        self.inner = FakeBackend()
        self.encoders: list[FakeBackend] = []
        self.next_encoder = FakeBackend()
        self.backend = BackendWithEncoder(self.inner, self._create)
        self.ends: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.backend.run, args=(self._deliver, self.stop))

    def _create(self) -> FakeBackend:
        self.encoders.append(self.next_encoder)
        self.next_encoder = FakeBackend()
        return self.encoders[-1]

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self.ends.put(delta)

    def end(self) -> Delta:
        return self.ends.get(timeout=TIMEOUT_S)


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    harness.thread.start()
    yield harness
    harness.stop.set()
    harness.backend.wake()
    harness.thread.join(TIMEOUT_S)
    assert not harness.thread.is_alive()


def job(run_id: str, *, scores: bool = True) -> BackendJob:
    sampling = SamplingSpec(max_tokens=0, time_limit_s=60, seed=0)
    task = ScoringTask("s", ("a",)) if scores else None
    return BackendJob(run_id, (), sampling, "normal", scoring=task)


def test_jobs_that_generate_need_no_encoder(harness: Harness) -> None:
    harness.backend.submit(job("g", scores=False))
    assert harness.end().run_id == "g"
    assert harness.encoders == []


def test_the_first_scoring_job_has_the_encoder_loaded_and_later_ones_use_it(
    harness: Harness,
) -> None:
    for run_id in ("a", "b"):
        harness.backend.submit(job(run_id))
        assert harness.end().run_id == run_id
    assert [encoder.taken for encoder in harness.encoders] == [["a", "b"]]
    assert harness.inner.taken == []


def test_jobs_that_come_while_it_is_loaded_wait_and_their_aborts_are_not_lost(
    harness: Harness,
) -> None:
    encoder = harness.next_encoder
    encoder.may_load.clear()
    harness.backend.submit(job("a"))
    harness.backend.submit(job("b"))
    harness.backend.abort("b")
    harness.backend.abort("unknown")
    encoder.may_load.set()
    assert {harness.end().run_id, harness.end().run_id} == {"a", "b"}
    assert encoder.taken == ["a", "b", "abort b"]


def test_an_encoder_that_cannot_be_loaded_fails_what_waits_and_is_tried_again(
    harness: Harness,
) -> None:
    harness.next_encoder.error = ModelLoadError("no memory")
    harness.backend.submit(job("a"))
    end = harness.end().end
    assert end is not None
    assert end.status is JobStatus.FAILED
    assert end.error_type == "ScorerError"
    assert "no memory" in str(end.error_message)
    assert harness.encoders[0].is_closed
    harness.backend.submit(job("b"))
    assert harness.end().end == END
    assert harness.encoders[1].taken == ["b"]


def test_an_abort_reaches_both(harness: Harness) -> None:
    harness.backend.submit(job("a"))
    harness.end()
    harness.backend.abort("x")
    assert harness.inner.taken == ["abort x"]
    assert harness.encoders[0].taken == ["a", "abort x"]


def test_the_longer_step_of_the_two_counts(harness: Harness) -> None:
    harness.inner.step_s = 1.0
    assert harness.backend.step_s == 1.0
    harness.backend.submit(job("a"))
    harness.end()
    harness.encoders[0].step_s = 2.0
    assert harness.backend.step_s == 2.0


def test_closing_drops_both() -> None:
    harness = Harness()
    harness.thread.start()
    harness.backend.submit(job("a"))
    harness.end()
    harness.stop.set()
    harness.backend.wake()
    harness.thread.join(TIMEOUT_S)
    harness.backend.close()
    assert harness.inner.is_closed
    assert harness.encoders[0].is_closed
