"""One request on its way through the engine: what is done of it, and when.

Knows nothing about the model, the batch or other sequences.
"""

from torch import Tensor

from worker.engine.detokenizer import TokenTable
from worker.engine.grammar import Matcher
from worker.engine.logprobs import logprobs
from worker.engine.sampler import SamplingRow, finite_rows
from worker.engine.sequence import FinishReason, Output, Request, Timings, TokenLogprobs
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
        is_guarded: It was admitted because it waited long, and keeps its room for a while.
        matcher: Where it is in its grammar; None where it has none, or waits for it.
        sampling_row: What the sampler needs for its next token, whichever that is.
        only_scores: It generates nothing more, and runs for its prompt's log-probabilities alone;
            of the last token of the prompt nothing is needed for these.
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
        self.is_guarded = False
        self._num_at_begin = 0  # completion tokens, when it was last admitted
        self._began_s: float | None = None  # its first prefill
        self._started_s: float | None = None  # the last one; None while it waits
        self._spent_s = 0.0  # execution time before it last gave way
        self.sampling_row = SamplingRow(
            params=request.params,
            prompt_ids=request.prompt_ids,
            completion_ids=self.transcript.token_ids,
            end_ids=request.params.end_ids(eos_ids),
            choice=request.choice,
        )
        self.matcher: Matcher | None = None
        self.only_scores = False
        self._prompt_logprobs: list[TokenLogprobs] = []
        self._are_prompt_logprobs_sent = False
        self._arrived_s = arrived_s
        self._first_token_s: float | None = None

    @property
    def num_pending(self) -> int:
        """How many tokens are known but not cached; a decode has one."""
        num_prompt = len(self.request.prompt_ids)
        if self.only_scores:
            return num_prompt - 1 - self.num_cached
        return num_prompt + len(self.transcript.token_ids) - self.num_cached

    @property
    def is_decoding(self) -> bool:
        """Whether one more token is all it needs to run."""
        return self.num_cached > 0 and self.num_pending == 1

    @property
    def is_running(self) -> bool:
        """Whether it is in the batch; else it waits."""
        return self._started_s is not None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and completion so far; without what tells nothing of the prompt, if only that."""
        if self.only_scores:
            return self.request.prompt_ids[:-1]
        return (*self.request.prompt_ids, *self.transcript.token_ids)

    @property
    def num_new(self) -> int:
        """How many tokens it has drawn since it was last admitted."""
        return len(self.transcript.token_ids) - self._num_at_begin

    def begin(self, now: float, num_cached: int, *, is_guarded: bool = False) -> None:
        """Start to run, with some of its tokens cached."""
        self._started_s = now
        self.is_guarded = is_guarded
        self._num_at_begin = len(self.transcript.token_ids)
        self.num_cached = num_cached
        if self._began_s is None:
            self._began_s = now
            self.num_reused = min(num_cached, len(self.request.prompt_ids))

    def preempt(self, now: float) -> None:
        """Give way: wait again, with nothing cached."""
        assert self._started_s is not None
        self._spent_s += now - self._started_s
        self._started_s = None
        self.num_cached = 0

    def next_ids(self, num_tokens: int) -> tuple[int, ...]:
        """Return the next ids to run, of the prompt first and then of the completion."""
        prompt_ids, num_prompt = self.request.prompt_ids, len(self.request.prompt_ids)
        start, end = self.num_cached, self.num_cached + num_tokens
        completion = self.transcript.token_ids[
            max(0, start - num_prompt) : max(0, end - num_prompt)
        ]
        return (*prompt_ids[start:end], *completion)

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of its prompt were asked for that no chunk has given yet."""
        num_wanted = len(self.request.prompt_ids) - 1
        is_asked = self.request.params.prompt_logprobs is not None
        return is_asked and len(self._prompt_logprobs) < num_wanted

    def num_logits(self, num_tokens: int) -> int:
        """Return of how many of its next tokens the logits are wanted, of the last ones."""
        return num_tokens if self.lacks_prompt_logprobs else 1

    def read_prompt(self, logits_NV: Tensor) -> bool:
        """Take the log-probabilities of the prompt from the logits of the next tokens.

        Returns:
            Whether all of the logits are finite; if not, nothing is taken.
        """
        wanted = self.request.params.prompt_logprobs
        assert wanted is not None
        if not all(finite_rows(logits_NV)):
            return False
        # Each token's logits are about the one after it. Some are known where it has given way.
        first = self.num_cached + 1
        targets = self.request.prompt_ids[first : first + len(logits_NV)]
        num_known = 1 + len(self._prompt_logprobs) - first
        rows = slice(num_known, len(targets))
        self._prompt_logprobs += logprobs(logits_NV[rows], targets[rows], wanted)
        return True

    def follow(self, matcher: Matcher) -> None:
        """Draw only what a grammar allows, which has read the completion so far."""
        self.matcher = matcher
        self._stop_if_complete(matcher)

    def _stop_if_complete(self, matcher: Matcher) -> None:
        # Also where it is the last token that may be drawn: the output is whole.
        if matcher.is_complete:
            self.transcript.finish_reason = FinishReason.STOP

    def used_s(self, now: float) -> float:
        """Return the execution time of all attempts; waiting is free."""
        running_s = 0.0 if self._started_s is None else now - self._started_s
        return self.request.used_s + self._spent_s + running_s

    def is_overdue(self, now: float) -> bool:
        """Whether its execution time has reached its limit."""
        limit_s = self.request.time_limit_s
        return limit_s is not None and self.used_s(now) >= limit_s

    def accept(self, token_id: int, now: float, found: TokenLogprobs | None = None) -> Output:
        """Append a sampled token and return the output that carries it.

        Args:
            token_id: The token.
            now: The clock, in seconds.
            found: How likely it was, where that was asked for.
        """
        if self._first_token_s is None:
            self._first_token_s = now
        position = len(self.transcript.token_ids)
        text = self.transcript.append(token_id)
        if self.matcher is not None and self.transcript.finish_reason is not FinishReason.STOP:
            self.matcher.advance([token_id])
            self._stop_if_complete(self.matcher)
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
            logprobs=() if found is None else (found,),
            prompt_logprobs=self._unsent_prompt_logprobs(),
        )

    def end(
        self, reason: FinishReason, now: float, code: str | None = None, error: str | None = None
    ) -> Output:
        """Return the last output of a sequence that ends without another token."""
        limit_s = self.request.time_limit_s
        if reason is FinishReason.TIMEOUT and limit_s is not None:
            error = f"it ran for {self.used_s(now):.3g} s; its time limit is {limit_s:g} s"
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
            prompt_logprobs=() if self.lacks_prompt_logprobs else self._unsent_prompt_logprobs(),
        )

    def _unsent_prompt_logprobs(self) -> tuple[TokenLogprobs, ...]:
        if self._are_prompt_logprobs_sent:
            return ()
        self._are_prompt_logprobs_sent = True
        return tuple(self._prompt_logprobs)

    def _timings(self, now: float) -> Timings:
        started_s = now if self._began_s is None else self._began_s
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
