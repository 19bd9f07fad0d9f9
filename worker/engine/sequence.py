"""What goes into the engine and what comes out of it.

Plain frozen values: they know nothing of tensors, threads or the model.
"""

from dataclasses import dataclass
from enum import StrEnum

MAX_CHOICES = 128
MAX_LOGIT_BIASES = 1024
MAX_LOGPROBS = 20
MAX_STOP_IDS = 1024
LEAST_LOGPROB = -9999.0


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
        max_tokens: Completion tokens at most, replayed ones counted. 0: the prompt is read for its
            log-probabilities, where they are asked for, and nothing is generated.
        temperature: 0 is greedy.
        top_p: Nucleus mass in [0, 1]; 1 keeps all, 0 is greedy.
        top_k: The k best tokens are kept; 0 is off, 1 is greedy.
        min_p: In [0, 1]; tokens below this share of the best one's probability go.
        repetition_penalty: Above 0, 1 is off; counts prompt and completion.
        presence_penalty: Subtracted once from every token of the completion; 0 is off.
        frequency_penalty: Subtracted per occurrence in the completion; 0 is off.
        seed: Any integer; its low 64 bits count.
        stop: Strings that end the sequence and are cut from its text.
        stop_token_ids: Ids that end the sequence as an eos id does; at most `MAX_STOP_IDS`.
        ignore_eos: Go on after an eos id.
        min_tokens: No eos, stop id or stop string ends it before this many tokens.
        skip_special_tokens: Special tokens have no text; else they have, but for the one that ends
            the sequence.
        logit_bias: Pairs of a token id and what is added to its logit, in [-100, 100], after the
            penalties and before the temperature; at most `MAX_LOGIT_BIASES`, each id once.
        logprobs: How many of the best tokens are listed beside each generated one, up to
            `MAX_LOGPROBS`, with their log-probabilities; None: no log-probabilities at all.
        prompt_logprobs: The same for each token of the prompt after the first. The prompt is then
            read in whole, whatever of it is cached.
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
    skip_special_tokens: bool = True
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1

    @property
    def has_filters(self) -> bool:
        """Whether some tokens are not drawn, however likely."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

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
        choice: Which of a job's `n` completions this is, from 0, below `MAX_CHOICES`.
        grammar: A Lark grammar, see `grammar.py`, that the completion follows; it ends where the
            grammar is fulfilled and nothing can follow, whatever `min_tokens` says.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 1
    time_limit_s: float | None = None
    used_s: float = 0.0
    committed_ids: tuple[int, ...] = ()
    choice: int = 0
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was, by the model alone.

    Log-probabilities are of the model's own distribution: the log-softmax of its logits, before
    penalties, biases, grammar and temperature. So they say what the model thinks of a text, are
    comparable between requests, and are never -inf where a filter dropped the token.

    Attributes:
        logprob: Of the token, in nats; `LEAST_LOGPROB` at least, so that it is always finite.
        top: The ids of the likeliest tokens with theirs, best first; of equal ones the smaller
            id first. The token itself is in it only where it is one of them.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


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
        error: One line for a person, with `FinishReason.ERROR`, and with `FinishReason.TIMEOUT`
            where the request had a limit.
        timings: Set together with `finish_reason`.
        used_s: Execution time so far, earlier attempts included.
        logprobs: One per id of `token_ids` where they were asked for, else none.
        prompt_logprobs: One per token of the prompt after the first, where they were asked for;
            with the first new token only, or with the end where there is none.
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
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
