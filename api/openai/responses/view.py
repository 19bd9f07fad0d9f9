"""The body of a response, made of its job's record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.failures import failure_of
from api.gateway import Gateway
from api.job_views import routing_of
from api.openai.errors import error_type
from api.openai.logprobs import chat_logprobs
from api.openai.responses.output import Logprob, Output
from api.openai.responses.reply import PARAMS, PREFIX, Reply
from api.openai.shown_tokens import ShownTokens
from api.openai.usage import performance_of, usage_of
from api.token_texts import TokenTexts
from common.errors import InvalidRequestError
from common.schemas import JobRecord, JobStatus
from common.token_logprobs import TokenLogprobs
from common.tool_calls.families import Family

MS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """How a response's tokens are read.

    Attributes:
        family: How the model writes its calls; None where it was told of no tools.
        texts: Of the model's tokens; None where no log-probabilities were asked for.
    """

    family: Family | None
    texts: TokenTexts | None

    @classmethod
    async def of(cls, gateway: Gateway, record: JobRecord, reply: Reply) -> Reading:
        """How those of one response are read.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        has_logprobs = record.sampling.logprobs is not None
        if not reply.reads_calls and not has_logprobs:
            return cls(None, None)
        card = await gateway.poller.card(record.model)
        family = reply.family if reply.reads_calls else None
        if reply.reads_calls and family is None:
            family = Family.GENERIC
            if card is not None:
                family = await gateway.tokenizers.family(card)
        if card is None or not has_logprobs:
            return cls(family, None)
        return cls(family, await gateway.tokenizers.texts(card))

    def logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
    ) -> list[Logprob]:
        """Those of some tokens, as OpenAI writes them; none where they were not asked for."""
        if self.texts is None or not logprobs:
            return []
        listed: list[Logprob] = chat_logprobs(token_ids, logprobs, self.texts)["content"]
        return listed


def status_of(record: JobRecord) -> str:
    """Where a response is, as OpenAI calls it."""
    if record.status is JobStatus.COMPLETED:
        [choice] = record.choices
        return "incomplete" if choice.finish_reason == "length" else "completed"
    if record.status is JobStatus.CANCELLED:
        return "cancelled"
    if record.status.is_final:
        return "failed"
    # A job that was handed back waits once more, and its response has begun all the same.
    has_begun = record.status is JobStatus.PROCESSING or record.started_ms is not None
    return "in_progress" if has_begun else "queued"


def bare_body(record: JobRecord, reply: Reply, status: str) -> dict[str, Any]:
    """The body without an answer in it, which depends on nothing that changes."""
    sampling = record.sampling
    return {
        "id": PREFIX + record.job_id,
        "object": "response",
        "created_at": record.created_ms // MS_PER_S,
        "status": status,
        "background": reply.is_background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": reply.instructions,
        "max_output_tokens": reply.max_output_tokens,
        "max_tool_calls": None,
        "metadata": record.metadata or {},
        "model": record.model,
        **routing_of(record),
        "output": [],
        "parallel_tool_calls": reply.parallel_tool_calls,
        "previous_response_id": reply.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": reply.is_stored,
        "temperature": sampling.temperature,
        "text": reply.text,
        "tool_choice": reply.tool_choice,
        "tools": list(reply.tools),
        "top_logprobs": sampling.logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": record.user_id,
    }


def ended_body(record: JobRecord, reply: Reply, output: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of a response that has ended."""
    status = status_of(record)
    changed: dict[str, Any] = {
        "output": output,
        "usage": _usage(record),
        "performance": performance_of([record]),
    }
    if status == "completed":
        changed["completed_at"] = (record.ended_ms or record.created_ms) // MS_PER_S
    elif status == "incomplete":
        changed["incomplete_details"] = {"reason": "max_output_tokens"}
    elif status == "failed":
        changed["error"] = _error(record)
    return bare_body(record, reply, status) | changed


async def body_of(gateway: Gateway, record: JobRecord, reply: Reply) -> dict[str, Any]:
    """The body of a response as it stands.

    Raises:
        RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
    """
    if not record.status.is_final:
        return bare_body(record, reply, status_of(record))
    return ended_body(record, reply, await output_of(gateway, record, reply))


async def output_of(gateway: Gateway, record: JobRecord, reply: Reply) -> list[dict[str, Any]]:
    """The items of a response that has ended."""
    reading = await Reading.of(gateway, record, reply)
    output = Output(record.job_id, reading.family)
    for choice in record.choices[:1]:
        shown = ShownTokens(record.sampling, reading.texts)
        tokens = shown.take(choice.text, choice.token_ids, choice.logprobs, is_last=True)
        output.feed(choice.text, reading.logprobs(*tokens))
    output.close(item_status(record), is_answer=is_answer(record))
    return output.items


def item_status(record: JobRecord) -> str:
    """The status of the last item of an ended response."""
    return "completed" if status_of(record) == "completed" else "incomplete"


def is_answer(record: JobRecord) -> bool:
    """Whether an ended response without any text is one with an empty text."""
    return record.status is JobStatus.COMPLETED


def _usage(record: JobRecord) -> dict[str, Any]:
    usage = usage_of([record])
    cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def _error(record: JobRecord) -> dict[str, Any]:
    """Why a response failed: OpenAI has two codes for it, and ours stands as the type."""
    failure = failure_of(record, PARAMS)
    assert failure is not None
    code = "invalid_prompt" if isinstance(failure, InvalidRequestError) else "server_error"
    return {"code": code, "message": failure.message, "type": error_type(failure.status)}
