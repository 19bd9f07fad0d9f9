"""Submitting on behalf of a request, with what its log line and its rate headers need."""

from __future__ import annotations

from fastapi import Request

from api.gateway import Gateway
from api.job_request import JobRequest
from api.submission import Accepted, AcceptedJob
from common.errors import RateLimitError
from common.job_store import Idempotency


async def submit(
    request: Request,
    gateway: Gateway,
    key_id: str,
    job: JobRequest,
    idempotency: Idempotency | None,
) -> Accepted:
    """Submit what a request asks for.

    Raises:
        RequestError: It is refused; see `Submitter.submit`.
    """
    try:
        accepted = await gateway.submitter.submit(
            job, key_id, request.state.request_id, idempotency
        )
    except RateLimitError as error:
        request.state.rate = gateway.limits.refused(error)
        raise
    request.state.task_id = accepted.group_id
    request.state.rate = gateway.limits.submitted(accepted.answer)
    return accepted


def task_links(request: Request, job: AcceptedJob) -> dict[str, str]:
    """Where to follow a task."""
    base, task_id = str(request.base_url).rstrip("/"), job.job_id
    return {
        "status_url": f"{base}/status/{task_id}",
        "result_url": f"{base}/result/{task_id}",
        "stream_url": f"{base}/stream/{task_id}?token={job.stream_token}",
        "cancel_url": f"{base}/tasks/{task_id}/cancel",
    }
