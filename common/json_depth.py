"""How deep a JSON value is nested, for bounds on what clients send."""

from __future__ import annotations


def depth_of(value: object, most: int) -> int:
    """How deep lists and objects are nested, or more than `most`."""
    depth, level = 0, [value]
    while level and depth <= most:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += bool(level)
    return depth
