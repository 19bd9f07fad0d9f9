"""The completion of one sequence so far: its ids, its text, and whether it has ended.

A replay of committed ids and a fresh run go through the same `append`, so their
texts agree by construction. Knows nothing about models, batches or clocks.
"""

from worker.engine.detokenizer import Detokenizer, TokenTable
from worker.engine.errors import RequestError
from worker.engine.sequence import FinishReason, Request
from worker.engine.stop_matcher import StopMatcher


class Transcript:
    """Append token ids one at a time and read off the text to show.

    Attributes:
        token_ids: All completion ids, replayed ones first.
        finish_reason: Set once an id has ended the sequence.
    """

    def __init__(self, request: Request, table: TokenTable, eos_ids: frozenset[int]) -> None:
        """Start empty; `replay` brings in the request's committed ids."""
        self._params = request.params
        self._end_ids = request.params.end_ids(eos_ids)
        self._detokenizer = Detokenizer(
            table, request.prompt_ids, skips_special=request.params.skip_special_tokens
        )
        self._matcher = StopMatcher(request.params.stop)
        self.token_ids: list[int] = []
        self.finish_reason = None if request.params.max_tokens else FinishReason.LENGTH

    def replay(self, committed_ids: tuple[int, ...]) -> str:
        """Append the ids of an earlier attempt and return the text they gave.

        Raises:
            RequestError: `invalid_request`, when the ids go on after an end.
        """
        texts = []
        for position, token_id in enumerate(committed_ids):
            if self.finish_reason is not None:
                raise RequestError(
                    "invalid_request",
                    f"committed_ids must not go on after the sequence's end ({self.finish_reason}),"
                    f" got {len(committed_ids)} ids with the end at index {position - 1}",
                )
            texts.append(self.append(token_id))
        return "".join(texts)

    def append(self, token_id: int) -> str:
        """Append one id, notice an end, and return the text to show for the id."""
        assert self.finish_reason is None, "the sequence has ended already"
        self.token_ids.append(token_id)
        text = self._text_of(token_id)
        if token_id in self._end_ids or self._matcher.matched:
            self.finish_reason = FinishReason.STOP
        elif len(self.token_ids) >= self._params.max_tokens:
            self.finish_reason = FinishReason.LENGTH
        return text

    def tail(self) -> str:
        """Return the text still held back, when no more ids will come."""
        return self._matcher.push(self._detokenizer.flush()) + self._matcher.release()

    def _text_of(self, token_id: int) -> str:
        if token_id in self._end_ids:
            return ""
        text = self._detokenizer.push(token_id)
        # A stop string counts from the first token after min_tokens on.
        is_armed = len(self.token_ids) > self._params.min_tokens
        return self._matcher.push(text) if is_armed else text
