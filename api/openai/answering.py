"""What the routes of OpenAI's endpoints share: submitting, and answering a client that waits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from api.gateway import Gateway
from api.hang_up import ClientGoneError, until_hang_up
from api.idempotency import REPLAYED
from api.job_request import JobRequest
from api.limits import rate_headers
from api.sse import EventStream
from api.submission import Accepted
from common.errors import RateLimitError
from common.job_store import Idempotency

CLIENT_CLOSED = 499


class Waiter(Protocol):
    """One client's wait for what it has asked for."""

    async def whole(self) -> dict[str, Any]:
        """The answer's body.

        Raises:
            RequestError: There is none.
        """

    def frames(self) -> AsyncGenerator[bytes, None]:
        """The answer's events.

        Raises:
            RequestError: There is no answer, and no event was sent yet.
        """


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


async def answered(
    request: Request, waiter: Waiter, headers: Mapping[str, str], *, streams: bool
) -> Response:
    """The answer to a client that waits; what goes wrong before its first event has a status."""
    try:
        if not streams:
            whole = await until_hang_up(request.receive, waiter.whole())
            return JSONResponse(whole, headers=dict(headers))
        frames = waiter.frames()
        first = await until_hang_up(request.receive, _next(frames))
        return EventStream(frames, headers=headers, first=first)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)


async def _next(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames)
