"""The header that names the model that a router has picked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

HEADER = "X-Baton-Model"

MODEL_HEADER: dict[str, Any] = {
    HEADER: {
        "description": "The id of the model that the `router` has picked.",
        "schema": {"type": "string"},
    }
}
"""For the API's documentation."""


def note_model(scope: Scope, model: str) -> None:
    """Note the model that a request was routed to, for its answer."""
    scope["state"]["routed_model"] = model


def model_headers(scope: Scope) -> Mapping[str, str]:
    """The header, where the request was routed."""
    model: str | None = scope["state"].get("routed_model")
    return {} if model is None else {HEADER: model}
