"""OpenAI's endpoint for embeddings."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.answering import CLIENT_CLOSED
from api.dependencies import GatewayDep, SubmitterId
from api.hang_up import ClientGoneError, until_hang_up
from api.idempotency import IdempotencyKeyHeader
from api.json_route import JsonRoute
from api.openai.answers import EmbeddingsList, errors
from api.openai.embeddings_call import rendered
from api.openai.embeddings_request import EmbeddingsRequest
from api.openai.serving import Serving
from api.submitting import headers_of, submitted

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute)


@router.post(
    "/embeddings",
    operation_id="create_embedding",
    response_model=EmbeddingsList,
    summary="Turn texts into vectors",
    responses=errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504),
)
async def embeddings(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: EmbeddingsRequest,
) -> Response:
    """As OpenAI's, by a model of kind `embed`: waits for the vectors of all inputs.

    A client that hangs up cancels its request, unless it has an `Idempotency-Key`: then it may come
    back for the answer within half a minute.
    """
    call = await gateway.calls.of(body)
    idempotency = None if idempotency_key is None else idempotency_key.of(call.body)
    accepted = await submitted(request, gateway, key_id, idempotency, call.job)
    is_keyed = idempotency is not None
    serving = Serving(gateway, request.scope, call, accepted, key_id, is_keyed=is_keyed)
    try:
        whole = await until_hang_up(request.receive, serving.whole())
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    content = await asyncio.to_thread(rendered, whole)
    return Response(content, headers=headers_of(request, accepted), media_type="application/json")
