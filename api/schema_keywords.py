"""What a JSON schema says that the compiler would not refuse, but clamp, misread or leave out.

What it refuses by itself (`uniqueItems`, `not`, unknown formats, ...) is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

MOST_COUNT = 2**32 - 1
MOST_BOUND = 2**63 - 2
"""The compiler has 64 bits for a bound, and one that it excludes comes on top."""

_COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})

_ONE = frozenset({"additionalProperties", "items", "not", "if", "then", "else", "contains"})
_ONE |= {"propertyNames", "unevaluatedItems", "unevaluatedProperties", "additionalItems"}
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def find_fault(schema: dict[str, Any]) -> str | None:
    """Return what is wrong with a schema or one within it, and where; None: nothing was found.

    Args:
        schema: Nested to a bounded depth.
    """
    left: list[tuple[str, Any]] = [("", schema)]
    while left:
        path, part = left.pop()
        if not isinstance(part, dict):
            continue
        for name, value in part.items():
            fault = _fault(name, value)
            if fault is not None:
                return f"{path}/{name} {fault}"
        if "patternProperties" in part:
            for name in ("minProperties", "maxProperties"):
                if name in part:
                    return f"{path}/{name} is not supported beside patternProperties"
        left += [(f"{path}/{where}", inner) for where, inner in _schemas_in(part)]
    return None


def _schemas_in(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas right within one, each with the way to it."""
    for name, value in schema.items():
        if name in _ONE:
            yield name, value
        elif name in _LISTS and isinstance(value, list):
            yield from ((f"{name}/{index}", inner) for index, inner in enumerate(value))
        elif name in _MAPS and isinstance(value, dict):
            yield from ((f"{name}/{key}", inner) for key, inner in value.items())


def _fault(name: str, value: object) -> str | None:
    if name in _COUNTS:
        return _fault_of_count(value)
    if name in _BOUNDS:
        return _fault_of_bound(value)
    check = _OTHERS.get(name)
    return None if check is None else check(value)


def _fault_of_count(value: object) -> str | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COUNT
    return None if is_count else f"must be an integer from 0 to {MOST_COUNT}; got {_shown(value)}"


def _fault_of_bound(value: object) -> str | None:
    if isinstance(value, bool):
        return f"must be a number, as since draft 6; got {_shown(value)}"
    if not isinstance(value, int | float):
        return f"must be a number; got {_shown(value)}"
    if not -MOST_BOUND <= value <= MOST_BOUND:
        return f"must be from {-MOST_BOUND} to {MOST_BOUND}; got {_shown(value)}"
    return None


def _fault_of_multiple(value: object) -> str | None:
    is_right = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return None if is_right else f"must be a number above 0; got {_shown(value)}"


def _fault_of_items(value: object) -> str | None:
    if isinstance(value, list):
        return "must be one schema; a list of them is prefixItems since draft 2020-12"
    return None


_OTHERS: dict[str, Callable[[object], str | None]] = {
    "multipleOf": _fault_of_multiple,
    "items": _fault_of_items,
    "additionalItems": lambda _: "is not supported: since draft 2020-12 it is items",
    "x-guidance": lambda _: "is not a keyword of JSON Schema",
}


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
