"""A backend that generates, and beside it the same model as an encoder for scorers.

The encoder is a second copy of the weights, in float32: the engine's own are fused, rounded and
laid out for decoding. It is loaded when the first scoring job comes, and has a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from common.errors import ModelLoadError, ScorerError
from common.model_card import ModelCard
from common.schemas import JobStatus
from common.vitals import EngineStats
from worker.backends.base import LOADING, Backend, BackendEnd, BackendJob, Deliver, Delta

log = logging.getLogger(__name__)


class BackendWithEncoder:
    """Passes scoring jobs to the encoder, and all else to the backend. Source: Backend.

    Args:
        inner: What generates.
        create_encoder: Makes the backend of the encoder; nothing is loaded by it.
    """

    def __init__(self, inner: Backend, create_encoder: Callable[[], Backend]) -> None:
        self._inner = inner
        self._create_encoder = create_encoder
        self._encoder: Backend | None = None
        # Guards the two below, and who is the encoder.
        self._lock = threading.Lock()
        self._waiting: dict[str, BackendJob] = {}
        self._aborted: set[str] = set()
        self._has_work = threading.Event()

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str | None]:
        """Load the model that generates; see the contract."""
        return self._inner.load(say)

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Run jobs until `stop` is set; see the contract."""
        thread = threading.Thread(
            target=self._run_encoder, args=(deliver, stop), name="encoder", daemon=True
        )
        thread.start()
        self._inner.run(deliver, stop)
        self.wake()
        thread.join()

    def text_of_committed(self, job: BackendJob) -> str | None:
        """What the tokens of an earlier attempt gave; see the contract."""
        return self._inner.text_of_committed(job)

    def submit(self, job: BackendJob) -> None:
        """Take a job; see the contract."""
        if job.scoring is None:
            self._inner.submit(job)
            return
        with self._lock:
            if self._encoder is not None:
                self._encoder.submit(job)
                return
            self._waiting[job.run_id] = job
        self._has_work.set()

    def abort(self, run_id: str) -> None:
        """End a run, whoever has it; see the contract."""
        self._inner.abort(run_id)
        with self._lock:
            if self._encoder is not None:
                self._encoder.abort(run_id)
            elif run_id in self._waiting:
                self._aborted.add(run_id)

    def wake(self) -> None:
        """Make both look at their stop event; see the contract."""
        self._inner.wake()
        self._has_work.set()
        if (encoder := self._encoder) is not None:
            encoder.wake()

    def close(self) -> None:
        """Drop both models; see the contract."""
        if self._encoder is not None:
            self._encoder.close()
        self._inner.close()

    @property
    def away(self) -> str | None:
        """Of what generates; see the contract."""
        return self._inner.away

    @property
    def is_lost(self) -> bool:
        """Of what generates; see the contract."""
        return self._inner.is_lost

    def new_card(self) -> ModelCard | None:
        """Of what generates; see the contract."""
        return self._inner.new_card()

    @property
    def step_s(self) -> float:
        """How long the longer of the present steps has been running; see the contract."""
        encoder = self._encoder
        return max(self._inner.step_s, 0.0 if encoder is None else encoder.step_s)

    @property
    def device(self) -> str:
        """Where both run."""
        return self._inner.device

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes of the GPU, used by anybody; see the contract."""
        return self._inner.gpu_memory()

    def stats(self) -> EngineStats | None:
        """The engine's own; what is scored is not counted."""
        return self._inner.stats()

    def _run_encoder(self, deliver: Deliver, stop: threading.Event) -> None:
        while not stop.is_set():
            self._has_work.wait()
            self._has_work.clear()
            if stop.is_set() or not self._waiting:
                continue
            encoder = self._create_encoder()
            try:
                with LOADING:
                    encoder.load(log.info)
            except ModelLoadError as error:
                encoder.close()
                log.error("No encoder for scorers: %s", error.message)
                deliver(self._failures(error))
                continue
            self._hand_over(encoder)
            encoder.run(deliver, stop)

    def _hand_over(self, encoder: Backend) -> None:
        with self._lock:
            for job in self._waiting.values():
                encoder.submit(job)
            for run_id in self._aborted:
                encoder.abort(run_id)
            self._waiting.clear()
            self._aborted.clear()
            self._encoder = encoder

    def _failures(self, error: ModelLoadError) -> list[Delta]:
        """The ends of what waited; the next job has it loaded again."""
        message = f"The scorer's encoder cannot be loaded: {error.message}"
        end = BackendEnd(
            JobStatus.FAILED, "error", error_type=ScorerError.__name__, error_message=message
        )
        with self._lock:
            jobs = list(self._waiting.values())
            self._waiting.clear()
            self._aborted.clear()
        return [Delta(job.run_id, 0, (), (), job.used_s, end) for job in jobs]
