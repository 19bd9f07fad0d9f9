"""The answers of `/v1/chat/completions`, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.openai.answer import Head
from api.openai.deltas import ChoiceDelta
from api.openai.logprobs import chat_logprobs
from api.openai.usage import performance_of, usage_of
from api.token_texts import TokenTexts
from common.schemas import ChoiceResult, JobRecord
from common.token_logprobs import TokenLogprobs

WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"


class ChatAnswer:
    """The answer to one chat request; one job, with one choice or several.

    Args:
        texts: Of the model's tokens, where log-probabilities were asked for.
    """

    def __init__(self, head: Head, num_choices: int, texts: TokenTexts | None) -> None:
        self._head = head
        self._num_choices = num_choices
        self._texts = texts

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        [record] = records
        choices = [self._choice(i, result) for i, result in enumerate(record.choices)]
        return {
            **self._head.body(WHOLE, choices),
            "usage": usage_of(records),
            "performance": performance_of(records),
        }

    def opening(self) -> list[dict[str, Any]]:
        """Source: Answer."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(choice, delta) for choice in range(self._num_choices)]

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """Source: Answer."""
        chunks = []
        if delta.text or delta.logprobs:
            logprobs = self._logprobs(delta.token_ids, delta.logprobs)
            chunks.append(self._chunk(delta.choice, {"content": delta.text}, logprobs))
        if delta.finish_reason is not None:
            chunks.append(self._chunk(delta.choice, {}, finish_reason=delta.finish_reason))
        return chunks

    def closing(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        return {
            **self._head.body(CHUNK, []),
            "usage": usage_of(records),
            "performance": performance_of(records),
        }

    def _choice(self, index: int, result: ChoiceResult) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "logprobs": self._logprobs(result.token_ids, result.logprobs),
            "finish_reason": result.finish_reason,
        }

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        part = {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._head.body(CHUNK, [part])

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
    ) -> dict[str, Any] | None:
        if self._texts is None:
            return None
        return chat_logprobs(token_ids, logprobs, self._texts)
