"""The answers of `/v1/completions`, whole and in chunks.

The choices of several prompts are counted on: with n = 2, those of the second prompt are 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.deltas import ChoiceDelta
from api.job_views import routing_of
from api.openai.answer import Head
from api.openai.logprobs import CompletionLogprobs, joined
from api.openai.shown_tokens import ShownTokens, Tokens
from api.openai.usage import performance_of, usage_of
from api.token_texts import TokenTexts
from common.sampling import SamplingSpec
from common.schemas import ChoiceResult, JobRecord

KIND = "text_completion"


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that its choices begin with."""

    text: str
    token_ids: tuple[int, ...]


class CompletionAnswer:
    """The answer to one completion request: a job for each prompt.

    Args:
        sampling: Of the job of each prompt.
        texts: Of the model's tokens, where log-probabilities were asked for.
        echoes: What each prompt's choices begin with; None where that was not asked for.
    """

    def __init__(
        self,
        head: Head,
        sampling: SamplingSpec,
        texts: TokenTexts | None,
        echoes: Sequence[Echo | None],
    ) -> None:
        self._head = head
        self._sampling = sampling
        self._num_choices = sampling.n
        self._texts = texts
        self._echoes = echoes
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._shown: dict[int, ShownTokens] = {}

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        choices = [
            self._choice(job * self._num_choices + i, record, result, self._echoes[job])
            for job, record in enumerate(records)
            for i, result in enumerate(record.choices)
        ]
        return self._with_usage(choices, records)

    def opening(self) -> list[dict[str, Any]]:
        """Source: Answer."""
        return [
            self._chunk(job * self._num_choices + i, echo.text)
            for job, echo in enumerate(self._echoes)
            if echo is not None
            for i in range(self._num_choices)
        ]

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """Source: Answer."""
        chunks = []
        if delta.choice not in self._shown:
            self._shown[delta.choice] = ShownTokens(self._sampling, self._texts)
        tokens = self._shown[delta.choice].take(
            delta.text,
            delta.token_ids,
            delta.logprobs,
            is_last=delta.finish_reason is not None,
        )
        if delta.text or tokens[1]:
            logprobs = self._logprobs_of(delta.choice, tokens)
            chunks.append(self._chunk(delta.choice, delta.text, logprobs))
        if delta.finish_reason is not None:
            chunks.append(self._chunk(delta.choice, "", finish_reason=delta.finish_reason))
        return chunks

    def closing(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        return self._with_usage([], records)

    def _choice(
        self, index: int, record: JobRecord, result: ChoiceResult, echo: Echo | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": result.text if echo is None else echo.text + result.text,
            "logprobs": self._all_logprobs(record, result, echo),
            "finish_reason": result.finish_reason,
        }

    def _all_logprobs(
        self, record: JobRecord, result: ChoiceResult, echo: Echo | None
    ) -> dict[str, Any] | None:
        """Those of the choice, after those of the prompt where that is part of the text."""
        if self._texts is None:
            return None
        logprobs = CompletionLogprobs(self._texts)
        shown = ShownTokens(self._sampling, self._texts)
        tokens = shown.take(result.text, result.token_ids, result.logprobs, is_last=True)
        if echo is None:
            return logprobs.view(*tokens)
        prompt = logprobs.view(echo.token_ids, record.prompt_logprobs)
        return joined(prompt, logprobs.view(*tokens))

    def _logprobs_of(self, choice: int, tokens: Tokens) -> dict[str, Any] | None:
        if self._texts is None:
            return None
        if choice not in self._logprobs:
            self._logprobs[choice] = CompletionLogprobs(self._texts)
        return self._logprobs[choice].view(*tokens)

    def _chunk(
        self,
        choice: int,
        text: str,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        part = {
            "index": choice,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._head.body(KIND, [part])

    def _with_usage(
        self, choices: list[dict[str, Any]], records: Sequence[JobRecord]
    ) -> dict[str, Any]:
        return {
            **self._head.body(KIND, choices),
            "usage": usage_of(records),
            "performance": performance_of(records),
            **routing_of(records[0]),
        }
