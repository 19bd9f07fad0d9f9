"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code", "request_id"}}`."""

from __future__ import annotations

from typing import Any

from common.errors import RequestError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
"""Of the statuses that have a type of their own."""
_NOT_WORTH_A_RETRY = (409, 504)


def error_type(status: int) -> str:
    """The type of an error, by its HTTP status."""
    return TYPES.get(status, "server_error" if status >= 500 else TYPES[400])


def error_body(error: RequestError, message: str, request_id: str | None) -> dict[str, Any]:
    """The body of an answer, or the data of a stream's event.

    Args:
        error: What went wrong.
        message: Its message, as long as it may be sent.
        request_id: Of the request.
    """
    return {
        "error": {
            "message": message,
            "type": error_type(error.status),
            "param": error.param,
            "code": error.code,
            "request_id": request_id,
        }
    }


def retry_headers(error: RequestError) -> dict[str, str]:
    """Keep OpenAI's clients from what they do unasked: repeat what has taken minutes already.

    Nor is a task that has failed repeated: its workers have tried it often enough.
    """
    if error.status in _NOT_WORTH_A_RETRY or error.code in ("task_failed", "upstream_error"):
        return {"x-should-retry": "false"}
    return {}
