"""OpenAI's generating endpoints: chats, and completions of prompts as they are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from api.answering import answered
from api.dependencies import GatewayDep, SubmitterId
from api.gateway import Gateway
from api.idempotency import IdempotencyKey, IdempotencyKeyHeader
from api.json_route import JsonRoute
from api.openai.answers import Chat, Completion, OpenAIError, errors
from api.openai.calls import Call
from api.openai.chat_request import ChatRequest
from api.openai.completion_request import CompletionRequest
from api.openai.serving import Serving
from api.routed import MODEL_HEADER
from api.stream_answers import ChatChunk, CompletionChunk, event_stream
from api.submitting import headers_of, submitted

_FAILURES = errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504)


def _streamed(chunk: type[BaseModel]) -> dict[str, Any]:
    content = event_stream(chunk, OpenAIError, is_done_said=True)
    return {"content": content, "headers": MODEL_HEADER}


router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute)


@router.post(
    "/chat/completions",
    operation_id="create_chat_completion",
    response_model=Chat,
    summary="Answer a conversation",
    responses={200: _streamed(ChatChunk), **_FAILURES},
)
async def chat_completions(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: ChatRequest,
) -> Response:
    """As OpenAI's: waits for the answer, or streams it with `stream: true`.

    A client that hangs up cancels its request, unless it has an `Idempotency-Key`: then it may come
    back for the answer within half a minute.
    """
    call = await gateway.calls.of(body)
    return await _answered(request, gateway, key_id, idempotency_key, call)


@router.post(
    "/completions",
    operation_id="create_completion",
    response_model=Completion,
    summary="Continue one prompt or several",
    responses={200: _streamed(CompletionChunk), **_FAILURES},
)
async def completions(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: CompletionRequest,
) -> Response:
    """As OpenAI's older endpoint: prompts go to the model as they are, without a chat template.

    A client that hangs up cancels its request, unless it has an `Idempotency-Key`: then it may come
    back for the answer within half a minute.
    """
    call = await gateway.calls.of(body)
    return await _answered(request, gateway, key_id, idempotency_key, call)


async def _answered(
    request: Request,
    gateway: Gateway,
    key_id: str,
    idempotency_key: IdempotencyKey | None,
    call: Call,
) -> Response:
    idempotency = None if idempotency_key is None else idempotency_key.of(call.body)
    accepted = await submitted(request, gateway, key_id, idempotency, call.job)
    is_keyed = idempotency is not None
    serving = Serving(gateway, request.scope, call, accepted, key_id, is_keyed=is_keyed)
    headers = headers_of(request, accepted)
    return await answered(request, serving, headers, streams=call.body.is_streamed)
