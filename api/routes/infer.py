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
from api.prefer import is_async, wait_of
from api.routes.generate import accepted_answer
from api.submission import Accepted
from api.submitting import headers_of, submitted
from api.waiting import ended_within, wait_for_ends
from common.errors import InternalError
from common.schemas import JobRecord

_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N`: a task, unless the scores are there within N seconds, 60 at most. "
    "`respond-async`: a task, at once. Its `/result` has the scores.",
    "schema": {"type": "string"},
    "examples": {
        "wait": {"summary": "The scores, or a task", "value": "wait=30"},
        "async": {"summary": "The task, at once", "value": "respond-async"},
    },
}

router = APIRouter(tags=["Score"], route_class=JsonRoute)


@router.post(
    "/infer",
    operation_id="infer",
    response_model=InferAnswer,
    summary="Score models for prompts, and wait",
    responses={
        202: {"model": SubmitAnswer, "description": "With `Prefer`: the task."},
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

    With `Prefer: wait=N` the answer is a task where the scores are not there within N seconds.
    A client that hangs up cancels the task, unless it has an `Idempotency-Key`: then it may come
    back within half a minute.
    """
    preferences = request.headers.getlist("prefer")
    wait_s = wait_of(preferences)
    idempotency = None if idempotency_key is None else idempotency_key.of(body)
    job = infer_job(body, gateway.settings)
    accepted = await submitted(request, gateway, key_id, idempotency, job)
    headers = headers_of(request, accepted)
    if wait_s is not None:
        headers = {"Preference-Applied": f"wait={wait_s}", **headers}
    elif is_async(preferences):
        applied = {"Preference-Applied": "respond-async"}
        return accepted_answer(request, accepted, {**applied, **headers})
    scores = _scores(gateway, accepted, key_id, wait_s, is_keyed=idempotency is not None)
    try:
        found = await until_hang_up(request.receive, scores)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    if found is None:
        return accepted_answer(request, accepted, headers)
    # There may be a million numbers, and others wait for the event loop.
    return await asyncio.to_thread(JSONResponse, {"scores": found}, headers=headers)


async def _scores(
    gateway: Gateway, accepted: Accepted, key_id: str, wait_s: int | None, *, is_keyed: bool
) -> dict[str, list[float]] | None:
    """The scores; None where they are not there within `wait_s`: the task goes on."""
    job_id = accepted.group_id
    with gateway.attendance.of([job_id], key_id, is_keyed=is_keyed) as visit:
        record = (
            await _ended(gateway, job_id, key_id)
            if wait_s is None
            else await ended_within(gateway.jobs, gateway.watcher, job_id, wait_s)
        )
        visit.is_over = True
    if record is None:
        return None
    if (failure := failure_of(record, {})) is not None:
        raise failure
    if record.scoring is None:
        raise InternalError("The job has ended without its scores.")
    return await asyncio.to_thread(scores_of, record, record.scoring)


async def _ended(gateway: Gateway, job_id: str, key_id: str) -> JobRecord:
    waiting = await gateway.jobs.get(job_id, key_id)
    [record] = await wait_for_ends(
        gateway.jobs,
        gateway.watcher,
        gateway.poller,
        [job_id],
        model=waiting.model,
        limit_s=gateway.settings.wait_limit_s,
    )
    return record
