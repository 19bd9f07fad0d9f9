"""What Schemathesis cannot know of our requests; it loads this file by itself.

A schema says nothing of rules between fields, nor of what there is on a server. Valid requests are
mended here to keep such rules, so that most of them reach a model; what is refused for such a rule
all the same is no failure. Requests that are meant to be wrong stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.core.failures import Failure

INPUT_FILE = "CONTRACT_INPUT_FILE"
"""The environment variable with the id of a file of requests."""
BACKGROUND = "CONTRACT_BACKGROUND"
"""The one with the id of a response that runs in the background."""
MODEL, EMBEDDER = "baton-toy", "my-embedder"
SCORER, CANDIDATES = "dense_network/example", ["storyteller", "coder-small"]
"""The scorer that ships, and of the models that it knows two: the first is `MODEL`, by an alias."""
SCORES, EMBEDS, BATCHES, INFERS = "/v1/completions", "/v1/embeddings", "/v1/batches", "/infer"
CANCEL = "/v1/responses/{response_id}/cancel"
MAX_TOKENS = 3
MAX_CHOICES = 2

# Two names or two forms of one thing: where the first is there, the second goes.
_EITHER = (
    ("model", "model_id"),
    ("prompt", "messages"),
    ("max_tokens", "max_completion_tokens"),
)
_AT_MOST = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), MAX_TOKENS),
    "n": MAX_CHOICES,
    "min_tokens": 1,
}
# That of the model, what there is on the server, and times in which nothing can be done.
_LEFT_OUT = ("best_of", "dimensions", "previous_response_id", "timeout")

_BEYOND_THE_SCHEMA = re.compile(
    "This Idempotency-Key came with another request before|whose result was dropped"
    "|must be the id of an item of this response"
    "|Only a background response can be cancelled"
    "|makes embeddings; it cannot generate"
    "|generates; embeddings are made by"
    "|cannot be used: |cannot be compiled"
    "|context length|must have at least one token|must not be empty"
    "|must (name|hold|be) tokens of"
    "|must be a function of tools|is there twice"
    "|must be the id of a call"
    "|must be valid JSON, in a text|must be a JSON object, in a text"
    "|must not hold a NUL character"
)
_ALLOWED = {
    "RejectedPositiveData": _BEYOND_THE_SCHEMA,
    "ServerError": re.compile("batches of a key may be under way"),
}


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Mend a valid request."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    if isinstance(case.body, dict) and case.media_type == "application/json":
        case.body = _mended(case.operation.path, case.body)
    if case.operation.path == CANCEL:
        case.path_parameters = {"response_id": os.environ[BACKGROUND]}
    key = case.headers.get("Idempotency-Key") if case.headers else None
    if key is not None:
        # The same request under the same key is a repeat; another one would be refused.
        case.headers["Idempotency-Key"] = _digest(key, case.operation.path, case.body)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Let a request be refused for what no schema says, or because there are too many of them."""
    allowed = _ALLOWED.get(type(failure).__name__)
    return allowed is None or not allowed.search(response.text)


@schemathesis.check
class EveryOperationIsReached:
    """Each has done what it is for at least once: the run has not seen refusals alone."""

    def __init__(self) -> None:
        self._tried: set[str] = set()
        self._reached: set[str] = set()

    def after_response(self, ctx: CheckContext, response: Response, case: Case) -> None:
        """Source: schemathesis.check."""
        self._tried.add(case.operation.label)
        if response.status_code < 300:
            self._reached.add(case.operation.label)

    def after_run(self, ctx: CheckContext) -> None:
        """Source: schemathesis.check."""
        assert self._tried <= self._reached, sorted(self._tried - self._reached)


def _mended(path: str, body: dict[str, Any]) -> dict[str, Any]:
    body = {name: _whole(value) for name, value in body.items() if name not in _LEFT_OUT}
    for name, limit in _AT_MOST.items():
        if body.get(name) is not None:
            body[name] = min(body[name], limit)
    if "model" in body:
        body["model"] = EMBEDDER if path == EMBEDS else MODEL
    for kept, dropped in _EITHER:
        if body.get(kept) is not None:
            body.pop(dropped, None)
    if path in ("/generate", "/stream/generate") and body.get("prompt") is None:
        _fill(body, "prompt", "messages")
    if body.get("messages") is not None:
        body.pop("raw", None)
    if path == BATCHES:
        body["input_file_id"] = os.environ[INPUT_FILE]
    if path == INFERS:
        body |= {"model": SCORER, "models_to_score": CANDIDATES}
    elif body.get("router") is not None and isinstance(body.get("prompt", ""), str):
        body |= {"router": SCORER, "model": "auto", "model_id": None}
    else:
        body = {name: body[name] for name in body if name not in ("router", "cost_weight")}
    return _as_they_go_together(path, body)


def _as_they_go_together(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What is only taken beside something else."""
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("top_logprobs") is not None and "messages" in body:
        body["logprobs"] = True
    if not body.get("tools"):
        body.pop("tool_choice", None)
    if body.get("background"):
        body.pop("store", None)
    if path == SCORES and body.get("max_tokens") == 0:
        body |= {"echo": True, "n": 1}
    if body.get("echo") and body.get("logprobs") is not None:
        body |= {"stream": False, "stream_options": None}
    if (body.get("min_tokens") or 0) > (body.get("max_tokens") or 1):
        body.pop("min_tokens")
    return body


def _fill(body: dict[str, Any], name: str, other: str) -> None:
    if body.get(other) is None:
        body[name] = "Once upon a time"


def _whole(value: Any) -> Any:
    """JSON Schema counts 7.0 among the whole numbers, and the service does not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()
