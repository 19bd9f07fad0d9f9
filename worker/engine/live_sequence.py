"""One request on its way through the engine: what is done of it, and when.

Knows nothing about the model, the batch or other sequences.
"""

from worker.engine.detokenizer import TokenTable
from worker.engine.sampler import SamplingRow
from worker.engine.sequence import FinishReason, Output, Request, Timings
from worker.engine.transcript import Transcript


class LiveSequence:
    """The state of one request from `add()` to its last output.

    Attributes:
        key: Its number in order of arrival, the runner's name for it.
        request: What was asked for.
        transcript: The completion so far.
        num_cached: How many of its tokens the runner has cached.
        num_reused: How many of its prompt's tokens were cached before it began.
        batch_size: The largest step that it was part of, in sequences.
        started_s: Clock at the start of its prefill; None while it waits.
    """

    def __init__(
        self,
        key: int,
        request: Request,
        table: TokenTable,
        eos_ids: frozenset[int],
        arrived_s: float,
    ) -> None:
        """Begin with the request's committed ids replayed.

        Raises:
            RequestError: The committed ids go on after an end.
        """
        self.key = key
        self.request = request
        self.transcript = Transcript(request, table, eos_ids)
        self.transcript.replay(request.committed_ids)
        self.num_cached = 0
        self.num_reused = 0
        self.batch_size = 0
        self.started_s: float | None = None
        self._end_ids = request.params.end_ids(eos_ids)
        self._arrived_s = arrived_s
        self._first_token_s: float | None = None

    @property
    def num_pending(self) -> int:
        """How many tokens are known but not cached; a decode has one."""
        return len(self.request.prompt_ids) + len(self.transcript.token_ids) - self.num_cached

    @property
    def is_decoding(self) -> bool:
        """Whether one more token is all it needs to run."""
        return self.num_cached > 0 and self.num_pending == 1

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and completion so far."""
        return (*self.request.prompt_ids, *self.transcript.token_ids)

    def begin_cached(self, num_cached: int) -> None:
        """Note that it begins with some of its tokens cached."""
        self.num_cached = num_cached
        self.num_reused = min(num_cached, len(self.request.prompt_ids))

    def next_ids(self, num_tokens: int) -> tuple[int, ...]:
        """Return the next ids to run, of the prompt first and then of the completion."""
        prompt_ids, num_prompt = self.request.prompt_ids, len(self.request.prompt_ids)
        start, end = self.num_cached, self.num_cached + num_tokens
        completion = self.transcript.token_ids[
            max(0, start - num_prompt) : max(0, end - num_prompt)
        ]
        return (*prompt_ids[start:end], *completion)

    def sampling_row(self) -> SamplingRow:
        """Return what the sampler needs for its next token."""
        return SamplingRow(
            params=self.request.params,
            prompt_ids=self.request.prompt_ids,
            completion_ids=self.transcript.token_ids,
            end_ids=self._end_ids,
            choice=self.request.choice,
        )

    def used_s(self, now: float) -> float:
        """Return the execution time of all attempts; waiting is free."""
        started_s = now if self.started_s is None else self.started_s
        return self.request.used_s + now - started_s

    def is_overdue(self, now: float) -> bool:
        """Whether its execution time has reached its limit."""
        limit_s = self.request.time_limit_s
        return limit_s is not None and self.used_s(now) >= limit_s

    def accept(self, token_id: int, now: float) -> Output:
        """Append a sampled token and return the output that carries it."""
        if self._first_token_s is None:
            self._first_token_s = now
        position = len(self.transcript.token_ids)
        text = self.transcript.append(token_id)
        reason = self.transcript.finish_reason
        return Output(
            request_id=self.request.request_id,
            choice=self.request.choice,
            position=position,
            token_ids=(token_id,),
            texts=(text,),
            tail=self.transcript.tail() if reason else "",
            finish_reason=reason,
            timings=self._timings(now) if reason else None,
            used_s=self.used_s(now),
        )

    def end(
        self, reason: FinishReason, now: float, code: str | None = None, error: str | None = None
    ) -> Output:
        """Return the last output of a sequence that ends without another token."""
        return Output(
            request_id=self.request.request_id,
            choice=self.request.choice,
            position=len(self.transcript.token_ids),
            token_ids=(),
            texts=(),
            tail=self.transcript.tail(),
            finish_reason=reason,
            error_code=code,
            error=error,
            timings=self._timings(now),
            used_s=self.used_s(now),
        )

    def _timings(self, now: float) -> Timings:
        started_s = now if self.started_s is None else self.started_s
        first_s = now if self._first_token_s is None else self._first_token_s
        return Timings(
            queue_s=started_s - self._arrived_s,
            prefill_s=first_s - started_s,
            decode_s=now - first_s,
            used_s=self.used_s(now),
            first_token_s=None if self._first_token_s is None else first_s - self._arrived_s,
            batch_size=self.batch_size,
            cached_tokens=self.num_reused,
        )
