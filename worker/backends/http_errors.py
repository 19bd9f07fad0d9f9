"""What can go wrong with a request over HTTP, as a wire's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from worker.backends.wire import MAX_MESSAGE_CHARS, UpstreamFailure, UpstreamRefusal

MAX_ERROR_BYTES = 65_536
MAX_RETRY_AFTER_S = 60.0
_REFUSALS = (400, 404, 413, 422)
_TOO_LONG = (
    *("context_length_exceeded", "maximum context length", "exceed context window"),
    # Ollama, by the engine that it runs the model with.
    *("exceeds the context length", "exceeds the available context size"),
    "longer than the context length",
)


@contextmanager
def translated_failures() -> Iterator[None]:
    """Raise what httpx raises of a server that does not answer as an `UpstreamFailure`."""
    try:
        yield
    except httpx.ConnectError as error:
        raise UpstreamFailure("it cannot be reached", is_away=True) from error
    except httpx.TimeoutException as error:
        raise UpstreamFailure("it did not answer in time", is_away=True) from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        # A connection that was cut, or something that is no HTTP.
        raise UpstreamFailure("the connection broke", is_away=True) from error


async def check_status(response: httpx.Response) -> None:
    """Raise the error that a response's status stands for.

    Raises:
        UpstreamRefusal: The request is at fault.
        UpstreamFailure: The server is.
    """
    status = response.status_code
    if status == 200:
        return
    if status in (401, 403):
        raise UpstreamFailure("it refuses our key", is_denied=True)
    if status in _REFUSALS:
        raise refusal_of(await read_json(response), status)
    raise UpstreamFailure(
        f"it answered {status}",
        # A redirect or an odd success is not what such a server says.
        is_away=status < 400,
        retry_after_s=_retry_after_s(response) if status in (429, 503) else None,
    )


def refusal_of(body: Any, status: int) -> UpstreamRefusal:
    """What a server says of a request that it refuses, whatever form its error has."""
    found = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    code = found.get("code") if isinstance(found, dict) else None
    message = found.get("message") if isinstance(found, dict) else found
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False) if message else f"it answered {status}"
    told = f"{code} {message}"
    is_too_long = any(sign in told for sign in _TOO_LONG)
    return UpstreamRefusal(_printable(message)[:MAX_MESSAGE_CHARS], is_too_long=is_too_long)


async def read_json(response: httpx.Response, limit: int = MAX_ERROR_BYTES) -> Any:
    """The body as JSON, else as text; None where it is empty, or longer than `limit` bytes."""
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > limit:
            return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace").strip() or None


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:  # none, or a date
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def _printable(text: str) -> str:
    # Half of a surrogate pair, which JSON can name, fits into no UTF-8.
    return text.encode(errors="replace").decode()
