"""A backend: anything that turns a job into a token stream, or into embeddings.

Knows nothing about Redis, Celery or HTTP. The host (`worker/host.py`) runs it on a thread of its
own and hands it jobs from others; the backend hands back deltas, in order for each job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.embeddings import Embeddings
from common.model_card import ModelCard
from common.sampling import SamplingSpec
from common.schemas import EngineTimings, JobClass, JobStatus, Prompt, TokenUsage
from common.scorers import ScoringTask
from common.token_logprobs import TokenLogprobs
from common.vitals import EngineStats


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """How a worker's memory is divided.

    Attributes:
        num_models: Models that the worker keeps loaded at most, this one counted.
        num_loaded: Others that are loaded now.
    """

    num_models: int = 1
    num_loaded: int = 0


@dataclass(frozen=True, slots=True)
class BackendJob:
    """One choice of a job to run, or an embedding job.

    Attributes:
        run_id: Names this run of the job, the same for all its choices: a job that comes back to
            the same worker has another one.
        sampling: `max_tokens` is set. The log-probabilities of the prompt are for choice 0 to tell,
            though nothing of it be left to generate.
        committed_ids: Tokens of an earlier attempt, to be continued and not sent again.
        used_s: Seconds of execution of earlier attempts; they count toward the time limit.
        inputs: Token ids of each input of an embedding job, which has no prompt.
        scoring: What a scorer does with the inputs' embeddings; None: they are the result.
        prompt: As the client sent it, for a model without a tokenizer here; it has no `prompt_ids`.
        committed_texts: Of `committed_ids`, one for each.
    """

    run_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingSpec
    job_class: JobClass
    committed_ids: tuple[int, ...] = ()
    used_s: float = 0.0
    choice: int = 0
    inputs: tuple[tuple[int, ...], ...] = ()
    scoring: ScoringTask | None = None
    prompt: Prompt | None = None
    committed_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendEnd:
    """How a choice ended in the backend.

    Attributes:
        status: A final status.
        finish_reason: `stop`, `length`, `cancelled`, `timeout` or `error`.
        tail: Text that was held back until the end.
        error_type: Class name of the error that ended it, with a message safe to show.
        embeddings: Of an embedding or scoring job that is completed.
        usage: The choice's tokens as the server behind it counts them, where it tells.
    """

    status: JobStatus
    finish_reason: str
    tail: str = ""
    timings: EngineTimings = field(default_factory=EngineTimings)
    error_type: str | None = None
    error_message: str | None = None
    embeddings: Embeddings | None = None
    usage: TokenUsage | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of a choice, its end, or both. Of an embedding job: its time so far, or its end.

    Attributes:
        position: Index of the first new token among all that were generated.
        texts: One for each id.
        used_s: Seconds of execution so far, over all attempts.
        logprobs: One for each id where the job asked for them, else none.
        prompt_logprobs: One for each token of the prompt after the first, where the job asked for
            them: once, with choice 0's first delta here or with its end.
        restarts: What the choice had generated before, in earlier attempts too, is void; `position`
            is 0.
    """

    run_id: str
    position: int
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    used_s: float
    end: BackendEnd | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    choice: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    restarts: bool = False


LOADING = threading.Lock()
"""Held while a model is loaded: transformers changes global state while it builds one, and the
memory that it takes is measured."""

Deliver = Callable[[Sequence[Delta]], None]


class Backend(Protocol):
    """What the host needs of a backend. Only `run` may block."""

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str | None]:
        """Load the model.

        Args:
            say: Takes a line of progress for a person to read.

        Returns:
            The card to publish, and the tokenizer file's content; None where prompts go to the
            backend as they came.

        Raises:
            ModelLoadError: It cannot be loaded; the message says why in one line.
        """
        ...

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Run jobs until `stop` is set. Every delta goes through `deliver`, on this thread."""
        ...

    def text_of_committed(self, job: BackendJob) -> str | None:
        """The text that the choice's committed tokens gave when they were new.

        None where they cannot be continued. Text held back at their end is not in it. Thread-safe.
        """
        ...

    def submit(self, job: BackendJob) -> None:
        """Take a choice of a job; its deltas follow. Thread-safe."""
        ...

    def abort(self, run_id: str) -> None:
        """End all choices of a run as cancelled at the next step. Thread-safe.

        A run that is unknown is ignored.
        """
        ...

    def wake(self) -> None:
        """Make `run` look at `stop` soon. Thread-safe."""
        ...

    def close(self) -> None:
        """Give the model's memory back; `run` has returned, and nothing else follows."""
        ...

    @property
    def away(self) -> str | None:
        """In one line, why no job should be brought now, though the model is loaded. Thread-safe.

        None: they may come. Jobs that run are the backend's own care.
        """
        ...

    @property
    def is_lost(self) -> bool:
        """Whether the model is gone for good: to load it again says why. Thread-safe."""
        ...

    def new_card(self) -> ModelCard | None:
        """The card, where it has changed since it was last told. Thread-safe."""
        ...

    @property
    def step_s(self) -> float:
        """Seconds for which the present step has been running; 0 between steps."""
        ...

    @property
    def device(self) -> str:
        """Where the model runs, such as `cpu` or `cuda:0`."""
        ...

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes `used` and `total` of the GPU; None on a CPU."""
        ...

    def stats(self) -> EngineStats | None:
        """The engine as it was within the last second or two; None before the model is loaded.

        Thread-safe; never waits for a step.
        """
        ...
