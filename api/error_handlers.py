"""Errors as HTTP answers: in OpenAI's shape below `/v1/`, and elsewhere in the native one.

    {"error": message, "status_code": N, "error_type": class name, "request_id": id, "param"?}

Every route raises errors of `common.errors`; this is the one place that turns them, and those of
the framework, into answers, and that decides on their shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic.fields import FieldInfo
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from api.limits import rate_headers
from api.openai.errors import error_body, retry_headers
from api.routed import model_headers
from api.upload import body_limit
from api.validation_message import cut, explain, printable
from common.errors import (
    AuthenticationError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
    RequestError,
)

MAX_MESSAGE_CHARS = 1000
OPENAI_PREFIX = "/v1/"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def install(app: FastAPI) -> None:
    """Answer the errors of this app's routes."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def respond(
    error: RequestError, scope: Scope, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to an error.

    Args:
        error: What went wrong.
        scope: The request, for its id and what is left of its key's rate.
        headers: More headers.
    """
    noted = {**rate_headers(scope), **model_headers(scope)}
    all_headers = {**_headers_of(error), **noted, **(headers or {})}
    if _is_openai(scope):
        return JSONResponse(openai_body(error, scope), error.status, all_headers)
    return JSONResponse(native_body(error, scope), error.status, all_headers)


def openai_body(error: RequestError, scope: Scope) -> dict[str, Any]:
    """An error in OpenAI's shape, as an answer and as a stream's event."""
    message = cut(error.message, MAX_MESSAGE_CHARS)
    return error_body(error, message, scope["state"].get("request_id"))


def native_body(error: RequestError, scope: Scope) -> dict[str, Any]:
    """An error in the native shape, as an answer and as a stream's event."""
    body: dict[str, Any] = {
        "error": cut(error.message, MAX_MESSAGE_CHARS),
        "status_code": error.status,
        "error_type": type(error).__name__,
        "request_id": scope["state"].get("request_id"),
    }
    return body if error.param is None else {**body, "param": error.param}


def _is_openai(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(OPENAI_PREFIX)


def internal_error() -> InternalError:
    """What a client is told of anything unforeseen."""
    return InternalError("Internal server error; the request id finds it in the server's log.")


def payload_too_large(path: str) -> PayloadTooLargeError:
    """The error for a body over the limit of this address."""
    return PayloadTooLargeError(f"The body is over the limit of {body_limit(path)} bytes.")


def _headers_of(error: RequestError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    return headers | retry_headers(error)


async def _on_request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return respond(error, request.scope)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, param = explain(error.errors(), _fields_of(request))
    return respond(InvalidRequestError(message, param=param), request.scope)


def _fields_of(request: Request) -> Mapping[str, FieldInfo]:
    """The fields of the body that the route expects."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = None if body is None else body.field_info.annotation
    return getattr(model, "model_fields", {})


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return respond(_translated(error, request), request.scope, headers)


def _allowed_methods(request: Request) -> list[str]:
    """Of all routes at this address: the framework names those of the first one alone."""
    allowed = [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]
    return ["HEAD", *allowed] if "GET" in allowed else allowed


def _translated(error: HTTPException, request: Request) -> RequestError:
    if isinstance(error.__cause__, RequestError):
        return error.__cause__  # what the framework takes for a body that it cannot read
    path = cut(printable(request.url.path))
    if error.status_code == 404:
        return NotFoundError(f"There is nothing at {path}.")
    if error.status_code == 405:
        return MethodNotAllowedError(f"{request.method} is not allowed at {path}.")
    if error.status_code == 413:
        return payload_too_large(request.url.path)
    if error.status_code == 400:
        return InvalidRequestError("The body is not valid JSON in UTF-8.")
    return internal_error()
