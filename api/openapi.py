"""The API's own documentation: what `/docs`, `/redoc` and `/openapi.json` say."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import stream_answers
from api.schemas import MAX_SEED

TITLE = "Baton"
DESCRIPTION = """\
A queue-backed LLM inference service. `POST /generate` answers at once with a task; poll
`/result/{task_id}`, or watch `/stream/{task_id}` while the text is generated. An accepted task is
never lost: when a worker dies in the middle of an answer, the next one goes on where it stopped.

Every request needs an API key, as `X-API-Key` or as `Authorization: Bearer`: press **Authorize**.

Every error is `{"error", "status_code", "error_type", "request_id"}`; below `/v1/`, which OpenAI's
clients use, `{"error": {"message", "type", "param", "code", "request_id"}}`.
"""
TAGS = [
    {"name": "Generate", "description": "Submit tasks."},
    {"name": "Score", "description": "Tell which model would answer a prompt best."},
    {"name": "Tasks", "description": "Follow tasks, read what came out, call them off."},
    {"name": "OpenAI", "description": "What OpenAI's clients call; errors are in its shape."},
    {"name": "Tokens", "description": "Count and cut texts as a model does."},
    {"name": "Models", "description": "What can be asked."},
    {"name": "Statistics", "description": "What the fleet does, in figures."},
    {"name": "Service", "description": "How the service is. No key needed."},
]
_ERRORS = ("ErrorAnswer", "OpenAIError")
_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Have the app describe itself without the framework's own 422, which it never answers."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    for path in schema["paths"].values():
        for operation in path.values():
            _with_errors_as_json(operation["responses"])
            _without_frameworks_422(operation["responses"])
            _with_retry_after(operation["responses"])
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    schemas = schema["components"]["schemas"]
    for name in _FRAMEWORKS_OWN:
        schemas.pop(name, None)
    for name, component in stream_answers.components().items():
        schemas.setdefault(name, component)
    _with_whole_limits(schema)
    return schema


def _with_retry_after(responses: dict[str, Any]) -> None:
    """Errors that pass say when to come again; that a gateway is not ready is none."""
    for status in {"429", "503"} & responses.keys():
        schema = responses[status]["content"]["application/json"]["schema"]
        if schema["$ref"].rpartition("/")[2] in _ERRORS:
            responses[status]["headers"] = {"Retry-After": _RETRY_AFTER}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is left out or it is a text: there is no null in an address or a header."""
    forms = [form for form in schema.get("anyOf", ()) if form != {"type": "null"}]
    if len(forms) != 1:
        return schema
    others = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**others, **forms[0]}


def _with_whole_limits(schema: Any) -> None:
    """Write the limits of whole numbers as such; the framework has made floats of them."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            for name in ("minimum", "maximum"):
                if name in schema:
                    schema[name] = max(-MAX_SEED - 1, min(int(schema[name]), MAX_SEED))
        for each in schema.values():
            _with_whole_limits(each)
    elif isinstance(schema, list):
        for each in schema:
            _with_whole_limits(each)


def _with_errors_as_json(responses: dict[str, Any]) -> None:
    """A stream's errors are JSON; the framework gives them the media type of the stream."""
    for status, answer in responses.items():
        if status >= "400" and "text/event-stream" in answer.get("content", {}):
            answer["content"] = {"application/json": answer["content"]["text/event-stream"]}


def _without_frameworks_422(responses: dict[str, Any]) -> None:
    content = responses.get("422", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if schema.get("$ref", "").rpartition("/")[2] in _FRAMEWORKS_OWN:
        del responses["422"]
