"""Submitting on behalf of a request, with what its log line and its rate headers need."""

from __future__ import annotations

from fastapi import Request

from api.gateway import Gateway
from api.idempotency import REPLAYED
from api.job_request import JobRequest
from api.limits import rate_headers
from api.submission import Accepted, AcceptedJob
from common.errors import RateLimitError
from common.job_store import Idempotency


async def submitted(
    request: Request,
    gateway: Gateway,
    key_id: str,
    idempotency: Idempotency | None,
    job: JobRequest,
) -> Accepted:
    """Submit what a request asks for, and note it for its log line and its rate headers."""
    try:
        accepted = await gateway.submitter.submit(
            job, key_id, request.state.request_id, idempotency
        )
    except RateLimitError as error:
        request.state.rate = gateway.limits.refused(error)
        raise
    note_accepted(request, gateway, accepted)
    return accepted


def note_accepted(request: Request, gateway: Gateway, accepted: Accepted) -> None:
    """Note what a request became."""
    request.state.task_id = accepted.group_id
    request.state.rate = gateway.limits.submitted(accepted.answer)


def headers_of(request: Request, accepted: Accepted) -> dict[str, str]:
    """Those of the answer to an accepted request."""
    return {**(REPLAYED if accepted.is_replay else {}), **rate_headers(request.scope)}


def task_links(request: Request, job: AcceptedJob) -> dict[str, str]:
    """Where to follow a task."""
    base, task_id = str(request.base_url).rstrip("/"), job.job_id
    return {
        "status_url": f"{base}/status/{task_id}",
        "result_url": f"{base}/result/{task_id}",
        "stream_url": f"{base}/stream/{task_id}?token={job.stream_token}",
        "cancel_url": f"{base}/tasks/{task_id}/cancel",
    }
