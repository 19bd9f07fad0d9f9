"""How deep a JSON value is nested, and bounds on that for what clients send."""

from __future__ import annotations

import json
from typing import Any

MAX_BODY_DEPTH = 128
"""Lists and objects within each other in a body; a schema, which may have 64, is a part of one."""
_CONTAINERS = (dict, list)
"""A tuple: `isinstance` takes twice as long for a union, and values may be millions."""


class NestingError(ValueError):
    """A value is nested more than `MAX_BODY_DEPTH` levels deep; the text says so."""

    def __init__(self) -> None:
        super().__init__(
            f"nested too deeply: at most {MAX_BODY_DEPTH} lists and objects within each other"
        )


def parsed(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        NestingError: It is nested more than `MAX_BODY_DEPTH` levels deep.
        ValueError: It is not valid JSON in UTF-8.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise NestingError from None
    if depth_of(value, MAX_BODY_DEPTH) > MAX_BODY_DEPTH:
        raise NestingError
    return value


def depth_of(value: object, most: int) -> int:
    """How many lists and objects stand within each other, or more than `most`."""
    depth = 0
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    while level and depth <= most:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, _CONTAINERS)
        ]
    return depth
