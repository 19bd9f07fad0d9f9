"""What happens to every request before and after its route, as plain ASGI classes.

From the outside in: request id, access log, security headers, CORS (Starlette's own), errors,
body limit, HEAD. None of them buffers an answer, so streams pass through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_handlers import internal_error, payload_too_large, respond
from api.upload import body_limit
from api.validation_message import cut, printable
from common.errors import RequestError
from common.log import log_context

MAX_REQUEST_ID_CHARS = 128
MOST_DROPPED_BYTES = 8 * 1024 * 1024
MOST_DROPPING_S = 10.0
CLIENT_CLOSED = 499
"""What the access log says where the client hung up before the answer began."""

# Pages load nothing from another host; the API browser runs inline scripts and a worker of its own.
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; worker-src blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'"
)

_log = logging.getLogger("api.access")


class RequestId:
    """Gives each request an id: the client's own `X-Request-ID` where it can be used."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _usable(Headers(scope=scope).get("x-request-id")) or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with log_context(request_id=request_id):
            await self._app(scope, receive, send_with_id)


PROBED_ROUTES = frozenset({"/health", "/health/live", "/health/ready", "/ready", "/metrics"})


class AccessLog:
    """One line a request: never the query, which may hold a key or a token.

    Probes and scrapes come every few seconds and tell nothing: theirs are at DEBUG.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[str, str, int, float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.perf_counter(), CLIENT_CLOSED

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._note(scope, status, time.perf_counter() - started_s)

    def _note(self, scope: Scope, status: int, duration_s: float) -> None:
        method, path = printable(scope["method"]), cut(printable(scope["path"]))
        route = getattr(scope.get("route"), "path", "unmatched")
        self._observe(method, route, status, duration_s)
        extra: dict[str, Any] = {"status": status, "ms": round(duration_s * 1000, 1)}
        state = scope["state"]
        extra.update({name: state[name] for name in ("key_id", "task_id") if name in state})
        level = logging.DEBUG if route in PROBED_ROUTES else logging.INFO
        _log.log(level, "%s %s", method, path, extra=extra)


class HeadAsGet:
    """Answers HEAD as GET without the body; a stream's head does not wait for its events."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        has_started, is_first = asyncio.Event(), True

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                has_started.set()

        async def receive_no_body() -> Message:
            nonlocal is_first
            if is_first:
                is_first = False
                return {"type": "http.request", "body": b"", "more_body": False}
            # To the application the client has gone: all that it wanted is sent.
            await has_started.wait()
            return {"type": "http.disconnect"}

        # A copy: the server looks into its own to know that no body is due.
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive_no_body, send_head)
        finally:
            scope["route"] = inner.get("route")  # which the access log asks for


class SecurityHeaders:
    """What tells a browser to be careful with our answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["X-XSS-Protection"] = "1; mode=block"
                # A stream's address may hold its token.
                headers["Referrer-Policy"] = "no-referrer"
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = PAGE_POLICY
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Errors:
    """Turns whatever no one foresaw into a 500 that says nothing, and a traceback in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:  # noqa: BLE001 - this is where all of them end
            if not isinstance(error, RequestError):
                _log.exception("unforeseen error in %s %s", scope["method"], scope["path"])
                error = internal_error()
            if not has_started:
                await respond(error, scope)(scope, receive, send)


class BodyLimit:
    """Refuses a body over the limit, announced or not.

    Some of it is read and dropped first: a client that still sends when the connection closes
    never reads the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Source: the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, limit = Headers(scope=scope), body_limit(scope["path"])
        if _number(headers.get("content-length", "")) > limit:
            # Who waits for leave to send has sent nothing, and reading would give that leave.
            if "expect" not in headers:
                await _drop_body(receive)
            response = respond(payload_too_large(scope["path"]), scope)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        size = 0

        async def receive_and_count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                if message.get("more_body", False):
                    await _drop_body(receive)
                # Of all exceptions, this is the one that the framework's body reader lets through.
                raise HTTPException(413)
            return message

        await self._app(scope, receive_and_count, send)


async def _drop_body(receive: Receive) -> None:
    """Read on to the body's end, or until `MOST_DROPPED_BYTES` or `MOST_DROPPING_S` are over."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MOST_DROPPING_S):
            has_more = True
            while has_more and size < MOST_DROPPED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                has_more = message.get("more_body", False)


def _number(text: str) -> float:
    """The number that a header announces; one too long to be read is beyond every limit."""
    if not text.isdecimal():
        return 0
    return int(text) if len(text) < 20 else float("inf")


def _usable(request_id: str | None) -> str | None:
    if request_id and len(request_id) <= MAX_REQUEST_ID_CHARS and request_id.isascii():
        return request_id if request_id.isprintable() else None
    return None
