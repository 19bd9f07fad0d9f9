"""Several prompts at once, and one prompt as a plain stream of tokens.

Source:
    Batch Generate and Stream Generation in `000_dd3c37f7e9e397a0.txt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.answering import CLIENT_CLOSED, streamed
from api.answers import BatchGeneratedAnswer, BatchSubmitAnswer, errors
from api.dependencies import GatewayDep, SubmitterId
from api.gateway import Gateway
from api.hang_up import ClientGoneError, until_hang_up
from api.idempotency import IdempotencyKeyHeader
from api.job_request import batch_generate_request, generate_request
from api.job_views import result_view
from api.json_route import JsonRoute
from api.prefer import is_async
from api.routed import MODEL_HEADER
from api.routes.generate import POLL_AFTER_S
from api.schemas import BatchGenerateRequest, GenerateRequest
from api.sse import EventStream
from api.stream_answers import DoneEvent, ErrorEvent, TokenEvent, event_stream
from api.submission import Accepted
from api.submitting import headers_of, submitted, task_links
from api.token_stream import TokenStream
from api.waiting import wait_for_ends

MESSAGE = "Your requests are being processed. Use each task_id to check status."
_ERRORS = errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504)
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: a task for each prompt, at once.",
    "schema": {"type": "string"},
    "examples": {
        "wait": {"summary": "The results", "value": ""},
        "async": {"summary": "The tasks, at once", "value": "respond-async"},
    },
}

router = APIRouter(tags=["Generate"], route_class=JsonRoute)


@router.post(
    "/batch/generate",
    operation_id="generate_batch",
    response_model=BatchGeneratedAnswer,
    summary="Generate for several prompts, and wait",
    responses={
        202: {"model": BatchSubmitAnswer, "description": "With `Prefer: respond-async`."},
        **_ERRORS,
    },
    openapi_extra={"parameters": [_PREFER]},
)
async def batch_generate(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: BatchGenerateRequest,
) -> Response:
    """One result for each prompt, in their order; one that failed has an error in its place.

    The prompts are taken all or none, and count once toward your rate. A client that hangs up
    cancels them, unless it has an `Idempotency-Key`: then it may come back within half a minute.
    """
    idempotency = None if idempotency_key is None else idempotency_key.of(body)
    job_request = batch_generate_request(body, gateway.settings)
    accepted = await submitted(request, gateway, key_id, idempotency, job_request)
    headers = headers_of(request, accepted)
    if is_async(request.headers.getlist("prefer")):
        return _accepted(request, accepted, headers)
    is_keyed = idempotency is not None
    results = _results(gateway, accepted, key_id, body.model_name, is_keyed=is_keyed)
    try:
        found = await until_hang_up(request.receive, results)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse({"results": found}, headers=headers)


@router.post(
    "/stream/generate",
    operation_id="generate_stream",
    response_class=EventStream,
    summary="Generate as a stream of tokens",
    responses={
        200: {"content": event_stream(TokenEvent, DoneEvent, ErrorEvent), "headers": MODEL_HEADER},
        **_ERRORS,
    },
)
async def stream_generate(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: GenerateRequest,
) -> Response:
    """Server-sent events: `{"token": "..."}` for new text, and `{"done": true}` at the end.

    What goes wrong on the way is in the last event, as an error with `done`. A client that hangs up
    cancels the task. For a stream that survives its connection, use `POST /generate`.
    """
    idempotency = None if idempotency_key is None else idempotency_key.of(body)
    job_request = generate_request(body, gateway.settings)
    accepted = await submitted(request, gateway, key_id, idempotency, job_request)
    [job] = accepted.jobs
    is_keyed = idempotency is not None
    stream = TokenStream(gateway, request.scope, job.job_id, key_id, is_keyed=is_keyed)
    return await streamed(request, stream.frames(), headers_of(request, accepted))


async def _results(
    gateway: Gateway, accepted: Accepted, key_id: str, model: str | None, *, is_keyed: bool
) -> Sequence[dict[str, Any]]:
    job_ids = [job.job_id for job in accepted.jobs]
    with gateway.attendance.of(job_ids, key_id, is_keyed=is_keyed) as visit:
        records = await wait_for_ends(
            gateway.jobs,
            gateway.watcher,
            gateway.poller,
            job_ids,
            model=gateway.catalog.resolve(model).model,
            limit_s=gateway.settings.wait_limit_s,
        )
        visit.is_over = True
    return [result_view(record) for record in records]


def _accepted(request: Request, accepted: Accepted, headers: Mapping[str, str]) -> JSONResponse:
    tasks = [
        {"status": job.status, "task_id": job.job_id, **task_links(request, job)}
        for job in accepted.jobs
    ]
    body = {"status": "queued", "message": MESSAGE, "tasks": tasks}
    applied = {"Preference-Applied": "respond-async", "Retry-After": POLL_AFTER_S}
    return JSONResponse(body, 202, {**applied, **headers})
