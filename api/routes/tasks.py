"""Following a task: where it is, what came out, and calling it off."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.answers import (
    CancelAnswer,
    EmbeddedAnswer,
    FailedAnswer,
    GeneratedAnswer,
    ScoredAnswer,
    StatusAnswer,
    UnfinishedAnswer,
    errors,
)
from api.dependencies import GatewayDep, ReaderId, TaskId
from api.gateway import Gateway
from api.job_views import (
    eta_s,
    result_view,
    status_message,
    status_view,
    unfinished_view,
)
from common.schemas import JobRecord, JobStatus

POLL_AFTER_S = "1"


_FAILURES = errors(401, 404, 410, 429, 503)
_CANCELLING: dict[str, Any] = {
    "response_model": CancelAnswer,
    "responses": {
        202: {"model": CancelAnswer, "description": "Its worker was told."},
        **_FAILURES,
    },
}

router = APIRouter(tags=["Tasks"])


@router.get(
    "/status/{task_id}",
    operation_id="get_task_status",
    response_model=StatusAnswer,
    summary="Where a task is",
    responses=_FAILURES,
)
async def status(gateway: GatewayDep, key_id: ReaderId, task_id: TaskId) -> JSONResponse:
    """Its place in the line while it waits, its progress while it runs."""
    record = await gateway.jobs.get(task_id, key_id)
    place = await place_in_line(gateway, record)
    eta = eta_s(record, place, gateway.poller.fleet, gateway.poller.seconds_per_token)
    return JSONResponse(status_view(record, place, eta))


@router.get(
    "/result/{task_id}",
    operation_id="get_task_result",
    response_model=GeneratedAnswer | EmbeddedAnswer | ScoredAnswer | FailedAnswer,
    summary="What a task has generated",
    responses={
        202: {"model": UnfinishedAnswer, "description": "Not there yet; see `Retry-After`."},
        **_FAILURES,
    },
)
async def result(gateway: GatewayDep, key_id: ReaderId, task_id: TaskId) -> JSONResponse:
    """The text and its metrics; `status: error` where the task failed or ran out of time.

    A task that ran out of time also has `state: expired` and what it had generated. A cancelled
    one has `status: cancelled` and what it had generated. A task of `POST /v1/embeddings` has its
    vectors instead, one of `POST /infer` its scores.
    """
    record = await gateway.jobs.get(task_id, key_id)
    if not record.status.is_final:
        return JSONResponse(unfinished_view(record), 202, {"Retry-After": POLL_AFTER_S})
    return JSONResponse(result_view(record))


@router.delete(
    "/tasks/{task_id}", operation_id="delete_task", summary="Cancel a task too", **_CANCELLING
)
@router.post(
    "/tasks/{task_id}/cancel", operation_id="cancel_task", summary="Cancel a task", **_CANCELLING
)
async def cancel(gateway: GatewayDep, key_id: ReaderId, task_id: TaskId) -> JSONResponse:
    """A waiting task ends at once, a running one at its worker's next step.

    A task that has ended stays as it is: asking twice does no harm.
    """
    state = await gateway.canceller.cancel(task_id, key_id)
    message = status_message(state) if state.is_final else "Task is being cancelled"
    body = {"status": state, "task_id": task_id, "message": message}
    return JSONResponse(body, 200 if state.is_final else 202)


async def place_in_line(gateway: Gateway, record: JobRecord) -> int | None:
    """The place of a waiting job; None for any other."""
    if record.status is not JobStatus.QUEUED:
        return None
    return await gateway.jobs.queue_position(record)
