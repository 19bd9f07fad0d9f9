"""The output of one choice of a job that this worker holds. Guarded by who holds the job."""

from __future__ import annotations

from collections.abc import Iterable

from common.events import TokenEvent
from common.schemas import ChoiceResult
from worker.backends.base import BackendEnd, Delta


class HeldChoice:
    """Everything generated of one choice, which begins with what earlier attempts had committed.

    Args:
        index: Which choice of the job it is, from 0.
        committed: The choice's token events of earlier attempts, in order.

    Attributes:
        end: How it ended; None while it runs.
    """

    def __init__(self, index: int, committed: Iterable[TokenEvent]) -> None:
        events = list(committed)
        self.index = index
        self.end: BackendEnd | None = None
        self._token_ids = [token for event in events for token in event.token_ids]
        self._texts = [text for event in events for text in event.texts]
        # As many as tokens, or none.
        self._logprobs = [each for event in events for each in event.logprobs]
        self._num_committed = len(self._token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens generated, those of earlier attempts counted."""
        return len(self._token_ids)

    @property
    def num_committed(self) -> int:
        """Tokens that Redis has."""
        return self._num_committed

    @property
    def committed_ids(self) -> tuple[int, ...]:
        """Tokens that Redis has."""
        return tuple(self._token_ids[: self._num_committed])

    @property
    def committed_text(self) -> str:
        """The text of the tokens that Redis has."""
        return "".join(self.committed_texts)

    @property
    def committed_texts(self) -> tuple[str, ...]:
        """The texts of the tokens that Redis has."""
        return tuple(self._texts[: self._num_committed])

    @property
    def has_unsent(self) -> bool:
        """Whether there are tokens that Redis does not have yet."""
        return self._num_committed < len(self._token_ids)

    @property
    def unsent(self) -> TokenEvent:
        """The tokens that Redis does not have yet, as one event."""
        start = self._num_committed
        return TokenEvent(
            start,
            tuple(self._token_ids[start:]),
            tuple(self._texts[start:]),
            self.index,
            tuple(self._logprobs[start:]),
        )

    def add(self, delta: Delta) -> None:
        """Take new output of the engine."""
        assert self.end is None, "the engine went on after an end"
        if delta.restarts:
            self._token_ids, self._texts, self._logprobs = [], [], []
        assert delta.position == len(self._token_ids), "the engine skipped or repeated a token"
        self._token_ids += delta.token_ids
        self._texts += delta.texts
        self._logprobs += delta.logprobs
        self.end = delta.end

    def mark_committed(self, count: int) -> None:
        """Note how many tokens Redis has."""
        self._num_committed = min(count, len(self._token_ids))

    def result(self, finish_reason: str) -> ChoiceResult:
        """All of it, once it has ended."""
        assert self.end is not None
        text = "".join(self._texts) + self.end.tail
        return ChoiceResult(text, tuple(self._token_ids), finish_reason, tuple(self._logprobs))
