"""Answering a client that waits: with the whole of it, or with its events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from api.hang_up import ClientGoneError, until_hang_up
from api.sse import EventStream

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


async def answered(
    request: Request, waiter: Waiter, headers: Mapping[str, str], *, streams: bool
) -> Response:
    """The answer to a client that waits; what goes wrong before its first event has a status."""
    if streams:
        return await streamed(request, waiter.frames(), headers)
    try:
        whole = await until_hang_up(request.receive, waiter.whole())
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse(whole, headers=dict(headers))


async def streamed(
    request: Request, frames: AsyncGenerator[bytes, None], headers: Mapping[str, str]
) -> Response:
    """A stream whose first event is there."""
    try:
        first = await until_hang_up(request.receive, _next(frames))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    return EventStream(frames, headers=headers, first=first)


async def _next(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames)
