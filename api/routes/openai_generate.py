"""OpenAI's generating endpoints: chats, and completions of prompts as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.dependencies import GatewayDep, SubmitterId
from api.gateway import Gateway
from api.hang_up import ClientGoneError, until_hang_up
from api.idempotency import REPLAYED, IdempotencyKey, IdempotencyKeyHeader
from api.limits import rate_headers
from api.openai.answers import Chat, Completion, errors
from api.openai.calls import Call, ChatCall, CompletionCall
from api.openai.chat_request import ChatRequest
from api.openai.completion_request import CompletionRequest
from api.openai.serving import Serving
from api.sse import EventStream
from api.submission import Accepted
from common.errors import RateLimitError

CLIENT_CLOSED = 499
_FAILURES = errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504)

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/chat/completions",
    response_model=Chat,
    summary="Answer a conversation",
    responses=_FAILURES,
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
    call = await ChatCall.of(body, gateway)
    return await _answered(request, gateway, key_id, idempotency_key, call)


@router.post(
    "/completions",
    response_model=Completion,
    summary="Continue one prompt or several",
    responses=_FAILURES,
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
    call = CompletionCall(body, gateway.settings)
    return await _answered(request, gateway, key_id, idempotency_key, call)


async def _answered(
    request: Request,
    gateway: Gateway,
    key_id: str,
    idempotency_key: IdempotencyKey | None,
    call: Call,
) -> Response:
    accepted = await submitted(request, gateway, key_id, idempotency_key, call)
    headers = {**(REPLAYED if accepted.is_replay else {}), **rate_headers(request.scope)}
    is_keyed = idempotency_key is not None
    serving = Serving(gateway, request.scope, call, accepted, key_id, is_keyed=is_keyed)
    try:
        if not call.body.is_streamed:
            whole = await until_hang_up(request.receive, serving.whole())
            return JSONResponse(whole, headers=headers)
        frames = serving.frames()
        first = await until_hang_up(request.receive, _next(frames))
        return EventStream(frames, headers=headers, first=first)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)


async def submitted(
    request: Request,
    gateway: Gateway,
    key_id: str,
    idempotency_key: IdempotencyKey | None,
    call: Call,
) -> Accepted:
    """Submit a call's jobs, and note for the response what its key has left.

    Raises:
        RequestError: They are not accepted.
    """
    idempotency = None if idempotency_key is None else idempotency_key.of(call.body)
    try:
        accepted = await gateway.submitter.submit(
            call.job, key_id, request.state.request_id, idempotency
        )
    except RateLimitError as error:
        request.state.rate = gateway.limits.refused(error)
        raise
    request.state.task_id = accepted.group_id
    request.state.rate = gateway.limits.submitted(accepted.answer)
    return accepted


async def _next(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames)
