"""Server-sent events over plain ASGI: bytes out, and a client that hangs up is noticed at once.

Neither `fastapi.sse` nor sse-starlette: a frame here may lack an id, the first line sets the
client's retry time, and a client that stops reading is cut, which together is more to bend than
these lines are to write.

Source:
    HTML Living Standard, section 9.2, Server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.background import end
from api.hang_up import hang_up

RETRY_MS = 2000
HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_S = 15.0
"""Of silence; proxies cut a connection that says nothing for a minute."""
RETRY = f"retry: {RETRY_MS}\n\n".encode()
SEND_TIMEOUT_S = 30.0
"""For one frame; a client that takes longer reads no more, and resumes if it is still there."""

_log = logging.getLogger(__name__)


def frame(data: dict[str, Any], eid: int | None = None) -> bytes:
    """One event: unnamed, so that `EventSource.onmessage` gets it; its data is one line of JSON."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = "" if eid is None else f"id: {eid}\n"
    return f"{head}data: {text}\n\n".encode(errors="replace")


class EventStream(Response):
    """Sends frames as they come.

    Args:
        frames: Closed, and so freed, as soon as the client has gone or the last one is sent.
        headers: More than those that every stream has.
        first: A frame that was taken from `frames` already.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        first: bytes = b"",
    ) -> None:
        self.status_code = status_code
        self.background: BackgroundTask | None = None
        self._frames = frames
        self._first = first
        own = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.init_headers({**own, **(headers or {})})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        writing = asyncio.create_task(self._write(send))
        waiting = asyncio.create_task(hang_up(receive))
        try:
            await asyncio.wait({writing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(writing, waiting)
        error = None if writing.cancelled() else writing.exception()
        if isinstance(error, TimeoutError):
            _log.info("a stream's client stopped reading and was cut")
        elif error is not None:
            raise error

    async def _write(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if self._first:
                await _send_body(send, self._first, more=True)
            async for body in frames:
                await _send_body(send, body, more=True)
        await _send_body(send, b"", more=False)


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})
