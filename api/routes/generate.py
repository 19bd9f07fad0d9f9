"""Submitting a task, and waiting for it where the client would rather wait."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from api.answers import FailedAnswer, GeneratedAnswer, SubmitAnswer, errors
from api.dependencies import GatewayDep, SubmitterId
from api.idempotency import IdempotencyKeyHeader
from api.job_request import generate_request
from api.job_views import result_view, status_message
from api.json_route import JsonRoute
from api.prefer import wait_of
from api.routed import MODEL_HEADER
from api.schemas import GenerateRequest
from api.submission import Accepted
from api.submitting import headers_of, submitted, task_links
from api.waiting import ended_within
from common.schemas import JobStatus

POLL_AFTER_S = "1"
MESSAGE = "Your request is being processed. Use the task_id to check status."

# The header may come several times, which FastAPI would describe as a list.
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N`: the result, if it is there within N seconds, 60 at most.",
    "schema": {"type": "string"},
    "examples": {
        "wait": {"summary": "The result", "value": "wait=30"},
        "queue": {"summary": "The task, at once", "value": ""},
    },
}
_WHERE = {
    "Location": {"description": "The task's `status_url`.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
    **MODEL_HEADER,
}

router = APIRouter(tags=["Generate"], route_class=JsonRoute)


@router.post(
    "/generate",
    operation_id="generate",
    status_code=202,
    response_model=SubmitAnswer,
    summary="Submit a text generation task",
    responses={
        200: {
            "model": GeneratedAnswer | FailedAnswer,
            "description": "With `Prefer: wait`: the result.",
            "headers": MODEL_HEADER,
        },
        202: {"description": "Accepted; ask again later.", "headers": _WHERE},
        **errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504),
    },
    openapi_extra={"parameters": [_PREFER]},
)
async def generate(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: GenerateRequest,
) -> JSONResponse:
    """Answers at once with the id of the task and the addresses to follow it at.

    Poll `status_url` or `result_url`, or read `stream_url`; do not build these yourself. With
    `Prefer: wait=N` the answer is the result itself, if it is there within N seconds.

    With an `Idempotency-Key` a repeat never runs the task twice: it is answered with the task of
    the first time, and where that is by now.
    """
    wait_s = wait_of(request.headers.getlist("prefer"))
    idempotency = None if idempotency_key is None else idempotency_key.of(body)
    job_request = generate_request(body, gateway.settings)
    accepted = await submitted(request, gateway, key_id, idempotency, job_request)
    [job] = accepted.jobs
    headers = headers_of(request, accepted)
    if wait_s is not None:
        record = await ended_within(gateway.jobs, gateway.watcher, job.job_id, wait_s)
        if record is not None:
            applied = {"Preference-Applied": f"wait={wait_s}"}
            return JSONResponse(result_view(record), headers={**applied, **headers})
    return accepted_answer(request, accepted, headers)


def accepted_answer(
    request: Request, accepted: Accepted, more_headers: Mapping[str, str]
) -> JSONResponse:
    """The 202 of one task."""
    [job] = accepted.jobs
    links = task_links(request, job)
    body = {
        "status": job.status,
        "task_id": job.job_id,
        "message": MESSAGE if job.status is JobStatus.QUEUED else status_message(job.status),
        **links,
        "queue_position": accepted.answer.queue_position,
    }
    headers = {"Location": links["status_url"], "Retry-After": POLL_AFTER_S, **more_headers}
    return JSONResponse(body, 202, headers)
