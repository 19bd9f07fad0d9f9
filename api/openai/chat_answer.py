"""The answers of `/v1/chat/completions`, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.deltas import ChoiceDelta
from api.job_views import routing_of
from api.openai.answer import Head
from api.openai.called_tools import CalledTools
from api.openai.logprobs import chat_logprobs
from api.openai.shown_tokens import ShownTokens
from api.openai.usage import performance_of, usage_of
from api.token_texts import TokenTexts
from common.sampling import SamplingSpec
from common.schemas import ChoiceResult, JobRecord
from common.token_logprobs import TokenLogprobs
from common.tool_calls.families import Family

WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"


class ChatAnswer:
    """The answer to one chat request; one job, with one choice or several.

    Args:
        sampling: Of the job.
        texts: Of the model's tokens, where log-probabilities were asked for.
        family: How the model writes its calls of tools, where there are any.
    """

    def __init__(
        self,
        head: Head,
        sampling: SamplingSpec,
        texts: TokenTexts | None,
        family: Family | None,
    ) -> None:
        self._head = head
        self._sampling = sampling
        self._texts = texts
        self._family = family
        self._choices = [CalledTools(head.answer_id, i, family) for i in range(sampling.n)]
        self._shown = [ShownTokens(sampling, texts) for _ in range(sampling.n)]

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        [record] = records
        choices = [self._choice(i, result) for i, result in enumerate(record.choices)]
        return {
            **self._head.body(WHOLE, choices),
            "usage": usage_of(records),
            "performance": performance_of(records),
            **routing_of(records[0]),
        }

    def opening(self) -> list[dict[str, Any]]:
        """Source: Answer."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(choice, delta) for choice in range(len(self._choices))]

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """Source: Answer."""
        choice = self._choices[delta.choice]
        is_last = delta.finish_reason is not None
        token_ids, logprobs = self._shown[delta.choice].take(
            delta.text, delta.token_ids, delta.logprobs, is_last=is_last
        )
        parts = choice.deltas(delta.text, is_last=is_last)
        if logprobs and not parts:
            parts = [{"content": ""}]
        chunks = [self._chunk(delta.choice, part) for part in parts]
        if logprobs:
            [first] = chunks[0]["choices"]
            first["logprobs"] = self._logprobs(token_ids, logprobs)
        if delta.finish_reason is not None:
            reason = choice.finish_reason(delta.finish_reason)
            chunks.append(self._chunk(delta.choice, {}, finish_reason=reason))
        return chunks

    def closing(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        return {
            **self._head.body(CHUNK, []),
            "usage": usage_of(records),
            "performance": performance_of(records),
            **routing_of(records[0]),
        }

    def _choice(self, index: int, result: ChoiceResult) -> dict[str, Any]:
        choice = CalledTools(self._head.answer_id, index, self._family)
        shown = ShownTokens(self._sampling, self._texts)
        tokens = shown.take(result.text, result.token_ids, result.logprobs, is_last=True)
        return {
            "index": index,
            "message": {"role": "assistant", **choice.message(result.text)},
            "logprobs": self._logprobs(*tokens),
            "finish_reason": choice.finish_reason(result.finish_reason),
        }

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        part = {
            "index": choice,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return self._head.body(CHUNK, [part])

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
    ) -> dict[str, Any] | None:
        if self._texts is None:
            return None
        return chat_logprobs(token_ids, logprobs, self._texts)
