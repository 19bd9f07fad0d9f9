"""The embedding backend on a tiny model: jobs share batches, and end between them."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.embeddings import Embeddings
from common.errors import ModelLoadError
from common.model_card import ModelCard
from common.model_catalog import CatalogEntry
from common.sampling import SamplingSpec
from common.schemas import JobStatus
from common.settings import Settings
from tests.tiny_embedder import SIZE, write_tiny_embedder
from worker.backends.base import BackendEnd, BackendJob, Delta
from worker.backends.embedding import EmbeddingBackend
from worker.engine.embedder import Embedder, load_embedder

TIMEOUT_S = 60


class Harness:
    """A backend whose every batch waits for the test, on a thread of its own.

    Attributes:
        batches: The number of inputs of each batch, as it began.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = CatalogEntry("e", (), str(path), "transformers", "", "e", kind="embed")
        self.backend = EmbeddingBackend(entry, Settings(_env_file=None, device="cpu"))
        self.card, _ = self.backend.load(lambda line: None)
        self.deltas: queue.Queue[Delta] = queue.Queue()
        self.batches: queue.Queue[int] = queue.Queue()
        self._permits = threading.Semaphore(0)
        self._stop = threading.Event()
        self._embed = Embedder.embed
        monkeypatch.setattr(Embedder, "embed", lambda _, rows: self._slowly(rows))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.backend.run(lambda deltas: [self.deltas.put(d) for d in deltas] and None, self._stop)

    def _slowly(self, rows: Sequence[Sequence[int]]) -> Tensor:
        self.batches.put(len(rows))
        assert self._permits.acquire(timeout=TIMEOUT_S)
        return self._embed(self.backend._loaded, rows)

    def wait_for_batch(self) -> int:
        """Wait until the next batch has begun; its inputs."""
        return self.batches.get(timeout=TIMEOUT_S)

    def allow(self, count: int = 1) -> None:
        """Let batches go on."""
        self._permits.release(count)

    def submit(self, name: str, *inputs: tuple[int, ...], limit_s: float = 60) -> None:
        sampling = SamplingSpec(max_tokens=0, time_limit_s=limit_s, seed=0)
        self.backend.submit(BackendJob(name, (), sampling, "normal", inputs=inputs))

    def end(self) -> tuple[str, BackendEnd]:
        """The next job that ends."""
        while True:
            delta = self.deltas.get(timeout=TIMEOUT_S)
            if delta.end is not None:
                return delta.run_id, delta.end

    def stop(self) -> None:
        self._stop.set()
        self.allow(100)
        self.backend.wake()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


StartHarness = Callable[[], Harness]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_embedder(tmp_path / "model")


@pytest.fixture
def harness(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(model, monkeypatch)
    yield harness
    harness.stop()


def test_the_card_tells_the_kind_and_the_size(harness: Harness) -> None:
    card = harness.card
    assert (card.kind, card.embedding_size, card.context_length) == ("embed", SIZE, 66)
    assert ModelCard.unpack(card.pack()) == card


def test_a_job_ends_with_the_vectors_of_its_inputs_in_order(harness: Harness, model: Path) -> None:
    inputs = ((5, 6, 7), (9,), tuple(range(10, 40)))
    harness.submit("a", *inputs)
    harness.allow(3)
    run_id, end = harness.end()
    assert (run_id, end.status) == ("a", JobStatus.COMPLETED)
    assert end.embeddings is not None
    reference = load_embedder(str(model), device="cpu", dtype="float32")
    for ids, vector in zip(inputs, end.embeddings.floats(), strict=True):
        expected = harness._embed(reference, [ids])[0]
        assert float((torch.tensor(vector) - expected).abs().max()) < 1e-5


def test_jobs_that_came_meanwhile_run_in_one_batch(harness: Harness) -> None:
    harness.submit("first", (5,))
    harness.wait_for_batch()
    for name in "abc":
        harness.submit(name, (5, 6))
    harness.allow(2)
    assert harness.wait_for_batch() == 3
    assert {harness.end()[0] for _ in range(4)} == {"first", "a", "b", "c"}


def test_a_small_job_ends_while_a_large_one_goes_on(harness: Harness) -> None:
    harness.backend.most_tokens = 64
    harness.submit("large", *[(5,) * 32] * 100)
    harness.wait_for_batch()
    harness.submit("small", (5,))
    harness.allow(2)
    assert harness.end()[0] == "small"
    harness.allow(100)
    assert harness.end()[0] == "large"


def test_a_cancel_acts_at_the_end_of_a_batch(harness: Harness) -> None:
    harness.backend.most_tokens = 64
    harness.submit("a", *[(5,) * 32] * 100)
    harness.wait_for_batch()
    harness.backend.abort("a")
    harness.backend.abort("unknown")
    harness.allow()
    run_id, end = harness.end()
    assert (run_id, end.status, end.embeddings) == ("a", JobStatus.CANCELLED, None)
    harness.submit("b", (5,))
    assert harness.wait_for_batch() == 1  # nothing of the first job is left


def test_a_deadline_acts_at_the_end_of_a_batch(harness: Harness) -> None:
    harness.backend.most_tokens = 64
    harness.submit("a", *[(5,) * 32] * 100, limit_s=1e-6)
    harness.allow()
    _, end = harness.end()
    assert (end.status, end.error_type) == (JobStatus.EXPIRED, "DeadlineExceededError")


def test_time_of_earlier_attempts_counts(harness: Harness) -> None:
    sampling = SamplingSpec(max_tokens=0, time_limit_s=10, seed=0)
    harness.backend.submit(BackendJob("a", (), sampling, "normal", used_s=11, inputs=((5,), (6,))))
    assert harness.end()[1].status is JobStatus.EXPIRED


def test_numbers_that_are_not_finite_fail_their_job_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(_: Embedder, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[float("nan") if row[0] == 7 else 1.0] * SIZE for row in rows])

    harness.submit("first", (5,))
    harness.wait_for_batch()
    monkeypatch.setattr(Embedder, "embed", embed)
    harness.submit("bad", (5,), (7,))
    harness.submit("good", (5,))
    harness.allow()
    ends = dict(harness.end() for _ in range(3))
    assert ends["good"].status is JobStatus.COMPLETED
    assert ends["bad"].status is JobStatus.FAILED
    assert "input[1]" in str(ends["bad"].error_message)


def test_a_batch_for_which_memory_is_too_small_is_run_in_parts(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(_: Embedder, rows: Sequence[Sequence[int]]) -> Tensor:
        if len(rows) > 1 or len(rows[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor([[float(row[0])] * SIZE for row in rows])

    harness.submit("first", (5,))
    harness.wait_for_batch()
    monkeypatch.setattr(Embedder, "embed", embed)
    harness.submit("a", (5,), (6, 6), (7,))
    harness.submit("b", (5, 5, 5))
    harness.allow()
    ends = dict(harness.end() for _ in range(3))
    assert ends["a"].embeddings is not None
    assert [vector[0] for vector in ends["a"].embeddings.floats()] == [5, 6, 7]
    assert ends["b"].status is JobStatus.FAILED


def test_a_model_that_cannot_be_loaded_says_why_in_one_line(tmp_path: Path) -> None:
    entry = CatalogEntry("e", (), str(tmp_path / "none"), "transformers", "", "e", kind="embed")
    backend = EmbeddingBackend(entry, Settings(_env_file=None, device="cpu"))
    with pytest.raises(ModelLoadError, match="there is no such directory"):
        backend.load(lambda line: None)


def test_a_closed_backend_has_freed_its_model_and_can_be_told_things(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(model, monkeypatch)
    weights = weakref.ref(harness.backend._loaded.model)
    harness.stop()
    harness.backend.close()
    assert weights() is None
    harness.backend.abort("a")
    assert harness.backend.stats() is None


def test_vectors_are_packed_as_little_endian_float32() -> None:
    packed = Embeddings.of_bytes(2, b"\x00\x00\x80\x3f" * 2 + b"\x00\x00\x00\x40" * 2)
    assert packed.floats() == [[1.0, 1.0], [2.0, 2.0]]
    assert packed.base64s() == ["AACAPwAAgD8=", "AAAAQAAAAEA="]
    assert Embeddings.unpack(packed.pack()) == packed
