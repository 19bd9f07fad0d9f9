"""What goes into the engine and what comes out of it.

Plain frozen values: they know nothing of tensors, threads or the model.
"""

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence draws its tokens and where it ends.

    Attributes:
        max_tokens: Completion tokens at most, replayed ones counted; at least 1.
        temperature: 0 is greedy.
        top_p: Nucleus mass in [0, 1]; 1 keeps all, 0 is greedy.
        top_k: The k best tokens are kept; 0 is off, 1 is greedy.
        min_p: In [0, 1]; tokens below this share of the best one's probability go.
        repetition_penalty: Above 0, 1 is off; counts prompt and completion.
        presence_penalty: Subtracted once from every token of the completion; 0 is off.
        frequency_penalty: Subtracted per occurrence in the completion; 0 is off.
        seed: Any integer; its low 64 bits count.
        stop: Strings that end the sequence and are cut from its text.
        stop_token_ids: Ids that end the sequence as an eos id does.
        ignore_eos: Go on after an eos id.
        min_tokens: No eos, stop id or stop string ends it before this many tokens.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the scores."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    def end_ids(self, eos_ids: frozenset[int]) -> frozenset[int]:
        """Return every token id that ends the sequence, given the model's own."""
        return frozenset(self.stop_token_ids) | (frozenset() if self.ignore_eos else eos_ids)


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate.

    Attributes:
        request_id: The caller's name for it; `(request_id, choice)` is unique while it lives.
        prompt_ids: Token ids of the prompt, special tokens included; at least one.
        params: Its own sampling parameters.
        priority: 0 high, 1 normal, 2 low.
        time_limit_s: Execution time allowed, over all attempts; None is no limit.
        used_s: Execution time that earlier attempts have spent.
        committed_ids: Completion tokens of an earlier attempt, replayed and then continued.
        choice: Which of a job's `n` completions this is.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 1
    time_limit_s: float | None = None
    used_s: float = 0.0
    committed_ids: tuple[int, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one sequence went, in seconds.

    Attributes:
        queue_s: From `add()` to the start of its prefill (to its end if it never ran).
        prefill_s: From there to its first new token.
        decode_s: From there to its end.
        used_s: Execution time of all attempts, this one included.
        first_token_s: From `add()` to its first new token; None if there was none.
        batch_size: The largest number of sequences in one step that it was part of.
        cached_tokens: Prompt tokens that a prefix cache saved.
    """

    queue_s: float
    prefill_s: float
    decode_s: float
    used_s: float
    first_token_s: float | None
    batch_size: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What one step gave one sequence.

    Attributes:
        request_id: As in the request.
        choice: As in the request.
        position: Index of `token_ids[0]` among the completion tokens, replayed ones counted.
        token_ids: New completion tokens, a final eos included; may be empty.
        texts: One text per id, "" where text is held back. All texts and the tail
            together are the result's text.
        tail: Held-back text, released at the end.
        finish_reason: Set on the last output of a sequence only.
        error_code: Machine-readable, with `FinishReason.ERROR`.
        error: One line for a person, with `FinishReason.ERROR`.
        timings: Set together with `finish_reason`.
        used_s: Execution time so far, earlier attempts included.
    """

    request_id: str
    choice: int
    position: int
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    tail: str = ""
    finish_reason: FinishReason | None = None
    error_code: str | None = None
    error: str | None = None
    timings: Timings | None = None
    used_s: float = 0.0
