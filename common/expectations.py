"""What a value that pydantic refused should have been, in our words: `must be at least 1`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMBER, _WHOLE, _TRUTH, _TEXT = "a number", "a whole number", "true or false", "a text"
_KINDS = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "string_type": _TEXT,
    "list_type": "a list",
    "model_type": "an object",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}

MOST_SHOWN_CHARS = 100
"""Of a wrong value in its message."""


def cut(text: str) -> str:
    """A value as text, or its beginning where it is long."""
    return text if len(text) <= MOST_SHOWN_CHARS else f"{text[:MOST_SHOWN_CHARS]}..."


def expectation(problem: Mapping[str, Any]) -> str:
    """The end of a sentence that begins with the value's name.

    Args:
        problem: As pydantic lists it; of a `ValueError` of ours, the text is taken as it is.
    """
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"must be {word} {context[name]:g}"
    if kind == "literal_error":
        values = re.findall("'([^']*)'", context["expected"])
        return f"must be one of {', '.join(values)}"
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return re.sub(r"^(Input|String|List|Dictionary|Value|Object) should ", "must ", message)
