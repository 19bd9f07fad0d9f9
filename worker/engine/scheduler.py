"""Decide which sequences run in the next step, and how many tokens of each.

Decodes first, then prefill within a token budget. Knows nothing about the model,
its cache or text.
"""

import bisect
from collections.abc import Callable, Iterator

from worker.engine.live_sequence import LiveSequence

PREFILL_BUDGET_TOKENS = 512
"""Prompt tokens a step at most, so that a long prompt stalls no decode for long."""


class Scheduler:
    """The waiting queue and the running batch."""

    def __init__(
        self,
        max_batch_size: int,
        place: Callable[[LiveSequence], int],
        prefill_budget_tokens: int = PREFILL_BUDGET_TOKENS,
    ) -> None:
        """Start empty.

        Args:
            max_batch_size: Sequences that may run at once, those in prefill counted.
            place: Makes room for a sequence that is admitted; returns how many of its tokens are
                cached already.
            prefill_budget_tokens: Prompt tokens a step at most, over all sequences.
        """
        assert max_batch_size > 0
        assert prefill_budget_tokens > 0
        self._max_batch_size = max_batch_size
        self._place = place
        self._prefill_budget_tokens = prefill_budget_tokens
        self._waiting: list[LiveSequence] = []
        self._running: list[LiveSequence] = []

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

    def remove(self, sequence: LiveSequence) -> None:
        """Take a sequence out, wherever it is; its place is free for the next step."""
        (self._waiting if sequence.started_s is None else self._running).remove(sequence)

    def overdue(self, now: float) -> list[LiveSequence]:
        """Return the sequences whose execution time is used up."""
        return [sequence for sequence in self if sequence.is_overdue(now)]

    def plan(self, now: float) -> list[tuple[LiveSequence, int]]:
        """Choose the next step's sequences and their number of tokens.

        Admits from the queue while there is room and budget.

        Args:
            now: The clock, in seconds; execution time starts here for what is admitted.
        """
        decodes = [(sequence, 1) for sequence in self._running if sequence.is_decoding]
        return decodes + list(self._plan_prefill(now))

    def _plan_prefill(self, now: float) -> Iterator[tuple[LiveSequence, int]]:
        budget = self._prefill_budget_tokens
        prefills = [sequence for sequence in self._running if not sequence.is_decoding]
        while budget:
            sequence = prefills.pop(0) if prefills else self._admit(now)
            if sequence is None:
                return
            num_tokens = min(budget, sequence.num_pending)
            budget -= num_tokens
            yield sequence, num_tokens

    def _admit(self, now: float) -> LiveSequence | None:
        if not self._waiting or len(self._running) >= self._max_batch_size:
            return None
        sequence = self._waiting.pop(0)
        sequence.started_s = now
        sequence.begin_cached(self._place(sequence))
        self._running.append(sequence)
        return sequence

    def check_integrity(self) -> None:
        """Assert that the queue is in order and every sequence is where its state says."""
        assert len(self._running) <= self._max_batch_size
        turns = [_turn(sequence) for sequence in self._waiting]
        assert turns == sorted(turns), f"the queue is out of order: {turns}"
        assert all(sequence.started_s is None for sequence in self._waiting)
        assert all(sequence.started_s is not None for sequence in self._running)
        assert all(sequence.num_pending > 0 for sequence in self)
        assert all(sequence.transcript.finish_reason is None for sequence in self)
        keys = [sequence.key for sequence in self]
        assert len(keys) == len(set(keys)), f"a sequence is scheduled twice: {keys}"


def _turn(sequence: LiveSequence) -> tuple[int, int]:
    return sequence.request.priority, sequence.key
