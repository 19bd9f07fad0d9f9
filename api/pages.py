"""A page of a list, as OpenAI's endpoints answer it."""

from __future__ import annotations

from typing import Any


def page_view(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The body of a list; each item has an `id`."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
