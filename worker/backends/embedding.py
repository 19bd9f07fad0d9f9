"""The backend of models that make embeddings. See `worker.backends.base.Backend` for the contract.

The inputs of all jobs run together, in batches that the jobs share; cancels and deadlines act
between batches. Nothing of a job is sent before its end. Of a scoring job, a scorer turns each
vector into scores, and these are what is kept and sent.
"""

from __future__ import annotations

import gc
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.utils import logging as hf_logging

from common.embeddings import Embeddings
from common.errors import BatonError, DeadlineExceededError, EngineError, ModelLoadError
from common.fleet import tokenizer_sha256
from common.model_card import ModelCard
from common.model_catalog import CatalogEntry
from common.schemas import EngineTimings, JobStatus
from common.scorers import ScoringTask
from common.settings import Settings
from common.vitals import EngineStats
from worker.backends.base import BackendEnd, BackendJob, Deliver, Delta
from worker.backends.transformers import ALL_THREADS, IDLE_WAIT_S, ONE_THREAD_BELOW
from worker.engine.embedder import Embedder, load_embedder
from worker.engine.errors import ModelLoadError as EngineLoadError
from worker.engine.turns import Turns
from worker.scoring.score import Scorer
from worker.scoring.shelf import ScorerShelf
from worker.scoring.storage import ScorerFiles

log = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 16_384
"""Tokens of a batch at most: enough for the device to be busy."""
LEAST_BATCH_TOKENS = 64
BATCH_S = 0.5
"""A batch is made so small that it takes no longer, at the speed of the last one: cancels,
deadlines and the next small job wait for its end."""


@dataclass(slots=True)
class _Run:
    """A job under way.

    Attributes:
        scorer: Of a scoring job; the same from its first input to its last.
        vectors: Little-endian float32 numbers of each input; None where it waits.
        began_s: When its first batch began, by `time.monotonic`; None before.
        forward_s: Of all batches that it had a part in.
    """

    job: BackendJob
    scorer: Scorer | None
    vectors: list[bytes | None]
    num_left: int
    began_s: float | None = None
    forward_s: float = 0.0
    batch_size: int = 0

    def used_s(self, now_s: float) -> float:
        """Seconds of execution, over all attempts."""
        return self.job.used_s + (0.0 if self.began_s is None else now_s - self.began_s)


class EmbeddingBackend:
    """One embedding model on one device."""

    def __init__(self, entry: CatalogEntry, settings: Settings) -> None:
        self._entry = entry
        self._scorers = ScorerShelf(ScorerFiles(settings.scorers_dir))
        self._device = "cuda:0" if settings.device.startswith("cuda") else "cpu"
        self.most_tokens = CPU_BATCH_TOKENS if self._device == "cpu" else GPU_BATCH_TOKENS
        self._batch_tokens = LEAST_BATCH_TOKENS
        self._num_threads = ALL_THREADS
        self._embedder: Embedder | None = None
        self._commands: queue.SimpleQueue[Callable[[], list[Delta]]] = queue.SimpleQueue()
        self._runs: dict[str, _Run] = {}
        self._turns = Turns()
        self._step_began: float | None = None
        self._num_steps = 0

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str]:
        """Load the weights and the tokenizer; see the contract."""
        if not sys.stderr.isatty():
            cast(Any, hf_logging).disable_progress_bar()
        torch.set_num_threads(ALL_THREADS)  # a small model before this one may have left one
        try:
            embedder = load_embedder(
                self._entry.source, device=self._device, dtype=self._entry.dtype, progress=say
            )
        except EngineLoadError as error:
            raise ModelLoadError(f"Model loading failed: {error}") from error
        except Exception as error:
            # A checkpoint can be broken in more ways than the loader knows.
            log.exception("The model cannot be loaded")
            raise ModelLoadError(
                f"Model loading failed: {type(error).__name__}; the error log has the details",
                may_pass=True,
            ) from error
        if self._device == "cpu" and embedder.num_parameters < ONE_THREAD_BELOW:
            self._num_threads = 1
        self._embedder = embedder
        tokenizer_json = embedder.tokenizer.backend_tokenizer.to_str()
        return _card(self._entry.model, embedder, tokenizer_json), tokenizer_json

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Run batches while there is work; see the contract."""
        torch.set_num_threads(self._num_threads)  # each thread has a number of its own
        while not stop.is_set():
            deltas = [*self._obey(), *self._overdue()]
            if self._turns:
                deltas += self._step()
            if deltas:
                deliver(deltas)

    def text_of_committed(self, job: BackendJob) -> str | None:
        """Nothing is committed before the end, so there is nothing to continue."""
        return None

    def submit(self, job: BackendJob) -> None:
        """Take a job; see the contract."""
        self._commands.put(lambda: self._begin(job))

    def abort(self, run_id: str) -> None:
        """End a job between two batches; see the contract."""
        end = BackendEnd(JobStatus.CANCELLED, "cancelled")
        self._commands.put(lambda: self._end(run_id, end))

    def wake(self) -> None:
        """Make `run` look at its stop event; see the contract."""
        self._commands.put(list)

    def close(self) -> None:
        """Drop the model; see the contract."""
        self._embedder = None
        gc.collect()  # modules and their hooks refer to each other
        if self._device != "cpu":
            torch.cuda.empty_cache()

    @property
    def away(self) -> str | None:
        """Nothing that is loaded goes away; see the contract."""
        return None

    @property
    def is_lost(self) -> bool:
        """Never: it is here."""
        return False

    def new_card(self) -> ModelCard | None:
        """What is loaded stays as it is; see the contract."""
        return None

    @property
    def step_s(self) -> float:
        """How long the present batch has been running; see the contract."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def device(self) -> str:
        """`cpu` or `cuda:0`."""
        return self._device

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes of the GPU, used by anybody; see the contract."""
        if self._device == "cpu":
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        return {"used": total - free, "total": total}

    def stats(self) -> EngineStats | None:
        """Jobs count as sequences, batches as steps; nothing is generated or cached."""
        if self._embedder is None:
            return None
        return EngineStats(len(self._runs), 0, self._num_steps, 0, 0)

    def _obey(self) -> list[Delta]:
        """Do what others asked for since the last batch; with nothing to run, wait for it."""
        deltas: list[Delta] = []
        try:
            if not self._turns:
                deltas += self._commands.get(timeout=IDLE_WAIT_S)()
            while True:
                deltas += self._commands.get_nowait()()
        except queue.Empty:
            return deltas

    def _begin(self, job: BackendJob) -> list[Delta]:
        count, task = len(job.inputs), job.scoring
        run = _Run(job, None, [None] * count, count)
        if task is not None:
            try:
                run.scorer = self._scorer_of(task)
            except BatonError as error:
                return [_delta(run, time.monotonic(), _refusal(error))]
        self._runs[job.run_id] = run
        most = None if task is None else task.batch_size
        self._turns.add(job.run_id, [len(ids) for ids in job.inputs], most)
        return []

    def _scorer_of(self, task: ScoringTask) -> Scorer:
        """The scorer of a task, once it is clear that it can do it.

        Raises:
            ScorerNotFoundError: There is no such scorer here.
            ScorerError: It cannot be used, or was trained with another encoder.
            InvalidRequestError: It does not know a model.
        """
        scorer = self._scorers.get(task.scorer, self._device)
        return scorer.check(task.models).check_encoder(self._loaded.revision)

    def _end(self, run_id: str, end: BackendEnd) -> list[Delta]:
        self._turns.remove(run_id)
        run = self._runs.pop(run_id, None)
        return [] if run is None else [_delta(run, time.monotonic(), end)]

    def _overdue(self) -> list[Delta]:
        now_s = time.monotonic()
        late = [
            run_id
            for run_id, run in self._runs.items()
            if run.used_s(now_s) >= run.job.sampling.time_limit_s
        ]
        return [
            delta
            for run_id in late
            for delta in self._end(run_id, _timeout(self._runs[run_id].used_s(now_s)))
        ]

    def _step(self) -> list[Delta]:
        """Run one batch, and end the jobs that have all of their vectors."""
        batch = self._turns.deal(min(self._batch_tokens, self.most_tokens))
        self._step_began = began_s = time.monotonic()
        for run_id in dict(batch):
            run = self._runs[run_id]
            run.began_s = began_s if run.began_s is None else run.began_s
        rows = [self._runs[run_id].job.inputs[index] for run_id, index in batch]
        vectors = self._scored(batch, self._vectors(rows))
        ended_s = time.monotonic()
        speed = sum(map(len, rows)) / max(ended_s - began_s, 1e-6)
        self._batch_tokens = max(LEAST_BATCH_TOKENS, int(BATCH_S * speed))
        self._step_began, self._num_steps = None, self._num_steps + 1
        for run_id in dict(batch):
            run = self._runs[run_id]
            run.forward_s += ended_s - began_s
            run.batch_size = max(run.batch_size, len(batch))
        for (run_id, index), vector in zip(batch, vectors, strict=True):
            run = self._runs[run_id]
            run.vectors[index] = None if vector is None else vector.numpy().astype("<f4").tobytes()
            run.num_left -= 1
        failed = {r: i for (r, i), vector in zip(batch, vectors, strict=True) if vector is None}
        return [delta for run_id in dict(batch) for delta in self._progress(run_id, failed)]

    def _progress(self, run_id: str, failed: dict[str, int]) -> list[Delta]:
        """The end of a job that had a part in a batch; one that goes on tells its time."""
        run = self._runs[run_id]
        if run_id in failed:
            return self._end(run_id, _failure(failed[run_id], self._loaded.precision))
        if run.num_left:
            return [_delta(run, time.monotonic())]
        values = b"".join(vector for vector in run.vectors if vector is not None)
        end = BackendEnd(
            JobStatus.COMPLETED,
            "stop",
            timings=EngineTimings(round(run.forward_s, 6), 0.0, run.batch_size),
            embeddings=Embeddings.of_bytes(self._size_of(run.job), values),
        )
        return self._end(run_id, end)

    def _size_of(self, job: BackendJob) -> int:
        return self._loaded.size if job.scoring is None else len(job.scoring.models)

    def _scored(
        self, batch: Sequence[tuple[str, int]], vectors: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The vectors of a batch, with those of scoring jobs turned into scores."""
        found = list(vectors)
        for run_id in dict(batch):
            run = self._runs[run_id]
            if run.scorer is None or run.job.scoring is None:
                continue
            task = run.job.scoring
            places = [i for i, (name, _) in enumerate(batch) if name == run_id]
            sound = [(i, vector) for i in places if (vector := vectors[i]) is not None]
            if sound:
                vectors_BD = torch.stack([vector for _, vector in sound])
                scores_BM = run.scorer.score(vectors_BD, task.models, batch_size=task.batch_size)
                for (i, _), scores_M in zip(sound, scores_BM, strict=True):
                    found[i] = scores_M
        return found

    def _vectors(self, rows: Sequence[Sequence[int]]) -> list[Tensor | None]:
        """The vector of each input; None where they are not finite, or memory is too small."""
        try:
            vectors = self._loaded.embed(rows)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            # In halves; the cache of the allocator goes, for its pieces have another size.
            if self._device != "cpu":
                torch.cuda.empty_cache()
            if len(rows) == 1:
                log.warning("No memory for an input of %d tokens", len(rows[0]))
                return [None]
            middle = len(rows) // 2
        else:
            return [vector if bool(torch.isfinite(vector).all()) else None for vector in vectors]
        return [*self._vectors(rows[:middle]), *self._vectors(rows[middle:])]

    @property
    def _loaded(self) -> Embedder:
        assert self._embedder is not None, "load() comes first"
        return self._embedder


def _card(model: str, embedder: Embedder, tokenizer_json: str) -> ModelCard:
    return ModelCard(
        model=model,
        revision=embedder.revision,
        architecture=embedder.architecture,
        format="safetensors",
        context_length=embedder.context_length,
        vocab_size=embedder.vocab_size,
        dtype=embedder.precision,
        tokenizer_sha256=tokenizer_sha256(tokenizer_json),
        chat_template=None,
        special_tokens={},
        kind="embed",
        embedding_size=embedder.size,
    )


def _delta(run: _Run, now_s: float, end: BackendEnd | None = None) -> Delta:
    return Delta(run.job.run_id, 0, (), (), run.used_s(now_s), end)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _refusal(error: BatonError) -> BackendEnd:
    return BackendEnd(
        JobStatus.FAILED, "error", error_type=type(error).__name__, error_message=error.message
    )


def _timeout(used_s: float) -> BackendEnd:
    return BackendEnd(
        JobStatus.EXPIRED,
        "timeout",
        error_type=DeadlineExceededError.__name__,
        error_message=f"The job ran for {used_s:.1f} s, which is over its time limit.",
    )


def _failure(index: int, precision: str) -> BackendEnd:
    return BackendEnd(
        JobStatus.FAILED,
        "error",
        error_type=EngineError.__name__,
        error_message=f"input[{index}] could not be embedded: there is no memory for it, or its "
        f"numbers are too large for {precision}.",
    )
