"""Submitting on behalf of a request, with what its log line and its rate headers need."""

from __future__ import annotations

from fastapi import Request

from api.gateway import Gateway
from api.idempotency import REPLAYED
from api.job_request import JobRequest
from api.limits import rate_headers
from api.routed import model_headers, note_model
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
    if job.router is not None:
        await note_routed(request, gateway, accepted)
    return accepted


def note_accepted(request: Request, gateway: Gateway, accepted: Accepted) -> None:
    """Note what a request became."""
    request.state.task_id = accepted.group_id
    request.state.rate = gateway.limits.submitted(accepted.answer)


async def note_routed(request: Request, gateway: Gateway, accepted: Accepted) -> None:
    """Note the model that a routed request went to; of a repeat its task knows, unless it is gone.

    Raises:
        RedisUnavailableError: Redis is away.
    """
    model = accepted.model
    if model is None:
        record = await gateway.jobs.find(accepted.group_id)
        model = None if record is None else record.model
    if model is not None:
        note_model(request.scope, model)


def headers_of(request: Request, accepted: Accepted) -> dict[str, str]:
    """Those of the answer to an accepted request."""
    replayed = REPLAYED if accepted.is_replay else {}
    return {**replayed, **rate_headers(request.scope), **model_headers(request.scope)}


def task_links(request: Request, job: AcceptedJob) -> dict[str, str]:
    """Where to follow a task."""
    base, task_id = str(request.base_url).rstrip("/"), job.job_id
    return {
        "status_url": f"{base}/status/{task_id}",
        "result_url": f"{base}/result/{task_id}",
        "stream_url": f"{base}/stream/{task_id}?token={job.stream_token}",
        "cancel_url": f"{base}/tasks/{task_id}/cancel",
    }
