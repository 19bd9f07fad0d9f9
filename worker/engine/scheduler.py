"""Decide which sequences run in the next step, and how many tokens of each.

Decodes first, then prefill within a token budget. Where the cache is full, the sequence that came
last in the lowest class gives way and is computed again later; where the batch is full, a low one
gives way to a high one that waits. Knows nothing about the model, text or how a cache is kept.
"""

import bisect
from collections.abc import Collection, Iterator

from worker.engine.live_sequence import LiveSequence
from worker.engine.runner import Runner

PREFILL_BUDGET_TOKENS = 512
"""Prompt tokens a step at most, so that a long prompt stalls no decode for long."""

TURNS_OF_OLDEST = 16
"""One in so many admissions goes to who came first of all that wait, whatever its class: however
many others come, it is admitted within so many times the number of those that came before it."""

LEAST_NEW_TOKENS = 32
"""So many a low sequence draws, each time it is admitted, before it gives way to a high one; and
one that was admitted as the oldest, before it may be the first to give way to a full cache."""

_HIGH, _LOW = 0, 2


class Scheduler:
    """The waiting queue and the running batch."""

    def __init__(
        self,
        max_batch_size: int,
        runner: Runner,
        prefill_budget_tokens: int = PREFILL_BUDGET_TOKENS,
    ) -> None:
        """Start empty.

        Args:
            max_batch_size: Sequences that may run at once, those in prefill counted.
            runner: Has the cache in which sequences are placed, and of which they are freed.
            prefill_budget_tokens: Prompt tokens a step at most, over all sequences.
        """
        assert max_batch_size > 0
        assert prefill_budget_tokens > 0
        self._max_batch_size = max_batch_size
        self._runner = runner
        self._prefill_budget_tokens = prefill_budget_tokens
        self._waiting: list[LiveSequence] = []
        self._running: list[LiveSequence] = []
        self._is_cache_full = False
        self._num_since_oldest = 0
        self.num_preempted = 0

    @property
    def num_running(self) -> int:
        """How many sequences have been admitted and have not ended."""
        return len(self._running)

    def __iter__(self) -> Iterator[LiveSequence]:
        """Iterate over all sequences, the running ones first."""
        return iter([*self._running, *self._waiting])

    def add(self, sequence: LiveSequence) -> None:
        """Queue a sequence behind those of its priority."""
        bisect.insort(self._waiting, sequence, key=_turn)

    def remove(self, sequences: Collection[LiveSequence]) -> None:
        """Take sequences out, wherever they are; their places are free for the next step."""
        for sequence in sequences:
            (self._running if sequence.is_running else self._waiting).remove(sequence)
        keys = {sequence.key for sequence in sequences if sequence.is_running}
        if keys:
            self._runner.free(keys)
            self._is_cache_full = False

    def overdue(self, now: float) -> list[LiveSequence]:
        """Return the sequences whose execution time is used up."""
        return [sequence for sequence in self if sequence.is_overdue(now)]

    def plan(self, now: float) -> list[tuple[LiveSequence, int]]:
        """Choose the next step's sequences and their number of tokens.

        Admits from the queue while there is room and budget.

        Args:
            now: The clock, in seconds; execution time starts here for what is admitted, and stops
                for what gives way.
        """
        self._make_way(now)
        decodes = list(self._plan_decodes(now))
        return decodes + list(self._plan_prefill(now))

    def _make_way(self, now: float) -> None:
        """Where the batch is full and a high one is next, let the last of the low ones wait."""
        if not self._waiting or self._is_cache_full or len(self._running) < self._max_batch_size:
            return
        if self._next().request.priority != _HIGH:
            return
        lows = [sequence for sequence in self._running if _may_give_way(sequence)]
        if lows:
            self._preempt(max(lows, key=_turn), now)

    def _next(self) -> LiveSequence:
        """Who is admitted next, of those that wait."""
        if self._num_since_oldest < TURNS_OF_OLDEST - 1:
            return self._waiting[0]
        return min(self._waiting, key=lambda sequence: sequence.key)

    def _plan_decodes(self, now: float) -> Iterator[tuple[LiveSequence, int]]:
        # In order of their turns: what gives way comes later in it, so it is in no plan yet.
        for sequence in sorted(self._running, key=_turn_to_stay):
            if sequence.is_running and sequence.is_decoding and self._reserve(sequence, now):
                yield sequence, 1

    def _reserve(self, sequence: LiveSequence, now: float) -> bool:
        """Make room for one more token, if need be that of others or, last of all, by waiting."""
        while not self._runner.reserve(sequence.key, 1):
            last = max(self._running, key=_turn_to_stay)
            assert len(self._running) > 1, "a sequence alone has room"
            self._preempt(last, now)
            # Who is admitted now would take the room that the others need to go on.
            self._is_cache_full = True
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: LiveSequence, now: float) -> None:
        """Let a sequence wait again; what it has cached may be gone when it comes back."""
        self._running.remove(sequence)
        self._runner.free({sequence.key})
        sequence.preempt(now)
        self.add(sequence)
        self.num_preempted += 1

    def _plan_prefill(self, now: float) -> Iterator[tuple[LiveSequence, int]]:
        budget = self._prefill_budget_tokens
        prefills = [sequence for sequence in self._running if not sequence.is_decoding]
        while budget:
            sequence = prefills.pop(0) if prefills else self._admit(now)
            if sequence is None:
                return
            num_tokens = min(budget, sequence.num_pending)
            has_room = self._runner.reserve(sequence.key, num_tokens)
            assert has_room, "it was placed with room for all its tokens"
            budget -= num_tokens
            yield sequence, num_tokens

    def _admit(self, now: float) -> LiveSequence | None:
        if not self._waiting or len(self._running) >= self._max_batch_size:
            return None
        if self._is_cache_full and self._running:
            return None
        sequence = self._next()
        # What is taken from the cache gives no logits.
        reuse = not sequence.lacks_prompt_logprobs
        num_cached = self._runner.place(sequence.key, sequence.token_ids, reuse=reuse)
        if num_cached is None:
            assert self._running, "a sequence alone has room"
            return None
        is_oldest_turn = self._num_since_oldest == TURNS_OF_OLDEST - 1
        self._num_since_oldest = 0 if is_oldest_turn else self._num_since_oldest + 1
        self._waiting.remove(sequence)
        sequence.begin(now, num_cached, is_guarded=is_oldest_turn)
        self._running.append(sequence)
        return sequence

    def check_integrity(self) -> None:
        """Assert that the queue is in order and every sequence is where its state says."""
        assert len(self._running) <= self._max_batch_size
        turns = [_turn(sequence) for sequence in self._waiting]
        assert turns == sorted(turns), f"the queue is out of order: {turns}"
        assert not any(sequence.is_running for sequence in self._waiting)
        assert all(sequence.is_running for sequence in self._running)
        assert all(sequence.num_pending > 0 for sequence in self)
        assert all(s.only_scores == (s.transcript.finish_reason is not None) for s in self)
        keys = [sequence.key for sequence in self]
        assert len(keys) == len(set(keys)), f"a sequence is scheduled twice: {keys}"


def _turn(sequence: LiveSequence) -> tuple[int, int]:
    return sequence.request.priority, sequence.key


def _turn_to_stay(sequence: LiveSequence) -> tuple[bool, int, int]:
    """The order in which running ones keep their room."""
    is_guarded = sequence.is_guarded and sequence.num_new < LEAST_NEW_TOKENS
    return not is_guarded, *_turn(sequence)


def _may_give_way(sequence: LiveSequence) -> bool:
    """Whether a running one may wait for the sake of a high one."""
    is_low = sequence.request.priority == _LOW
    return is_low and sequence.is_decoding and sequence.num_new >= LEAST_NEW_TOKENS
