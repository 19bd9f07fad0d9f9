"""Scoring models for prompts.

Source:
    Inference in `003_c5c934554bc23ae6.txt`.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.answering import CLIENT_CLOSED
from api.answers import InferAnswer, SubmitAnswer, errors
from api.dependencies import GatewayDep, SubmitterId
from api.failures import failure_of
from api.gateway import Gateway
from api.hang_up import ClientGoneError, until_hang_up
from api.idempotency import IdempotencyKeyHeader
from api.infer_request import InferBody, infer_job
from api.job_views import scores_of
from api.json_route import JsonRoute
from api.prefer import is_async
from api.routes.generate import accepted_answer
from api.submission import Accepted
from api.submitting import headers_of, submitted
from api.waiting import wait_for_ends
from common.errors import InternalError

_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: a task, at once; its `/result` has the scores.",
    "schema": {"type": "string"},
    "example": "respond-async",
}

router = APIRouter(tags=["Score"], route_class=JsonRoute)


@router.post(
    "/infer",
    operation_id="infer",
    response_model=InferAnswer,
    summary="Score models for prompts, and wait",
    responses={
        202: {"model": SubmitAnswer, "description": "With `Prefer: respond-async`."},
        **errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504),
    },
    openapi_extra={"parameters": [_PREFER]},
)
async def infer(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: InferBody,
) -> Response:
    """How well each model would answer each prompt, from 0 to 1, by a saved scorer.

    A client that hangs up cancels the task, unless it has an `Idempotency-Key`: then it may come
    back within half a minute.
    """
    idempotency = None if idempotency_key is None else idempotency_key.of(body)
    job = infer_job(body, gateway.settings)
    accepted = await submitted(request, gateway, key_id, idempotency, job)
    headers = headers_of(request, accepted)
    if is_async(request.headers.getlist("prefer")):
        applied = {"Preference-Applied": "respond-async"}
        return accepted_answer(request, accepted, {**applied, **headers})
    scores = _scores(gateway, accepted, key_id, is_keyed=idempotency is not None)
    try:
        found = await until_hang_up(request.receive, scores)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    # There may be a million numbers, and others wait for the event loop.
    return await asyncio.to_thread(JSONResponse, {"scores": found}, headers=headers)


async def _scores(
    gateway: Gateway, accepted: Accepted, key_id: str, *, is_keyed: bool
) -> dict[str, list[float]]:
    job_id = accepted.group_id
    with gateway.attendance.of([job_id], key_id, is_keyed=is_keyed) as visit:
        waiting = await gateway.jobs.get(job_id, key_id)
        [record] = await wait_for_ends(
            gateway.jobs,
            gateway.watcher,
            gateway.poller,
            [job_id],
            model=waiting.model,
            limit_s=gateway.settings.wait_limit_s,
        )
        visit.is_over = True
    if (failure := failure_of(record, {})) is not None:
        raise failure
    if record.scoring is None:
        raise InternalError("The job has ended without its scores.")
    return await asyncio.to_thread(scores_of, record, record.scoring)
