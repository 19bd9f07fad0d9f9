"""One sentence for what is wrong with a request: the field, what was expected, and what came."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from api.response_format import FORMATS

MAX_SHOWN_CHARS = 100
FORMAT, NESTED_FORMAT = "response_format", "text.format"

_SHOULD = re.compile(r"^(Input|String|List|Dictionary|Value|Object|URL|Tuple|Set) should ")
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_NO_FORM = ("union_tag_invalid", "union_tag_not_found", "model_attributes_type")
_JSON_TYPE = "Content-Type: application/json"


def explain(
    problems: Sequence[Mapping[str, Any]], fields: Mapping[str, FieldInfo], whole: str = "body"
) -> tuple[str, str | None]:
    """The sentence, and the field at fault where there is one.

    Args:
        problems: As pydantic lists them; the first one is told.
        fields: Those of the body, by name.
        whole: What is read, where it is no body.
    """
    problem = problems[0]
    location = [part for part in problem["loc"] if part not in ("body", "query", "path", "header")]
    kind = problem["type"]
    if kind == "json_invalid":
        return f"The body is not valid JSON: {printable(str(problem['ctx']['error']))}.", None
    if not location:
        error = problem.get("ctx", {}).get("error")
        return _about_the_whole(problem, whole), getattr(error, "param", None)
    for path in (FORMAT.split("."), NESTED_FORMAT.split(".")):
        if location[: len(path)] == path:
            del location[len(path) : len(path) + 1]  # which of its forms it is; that is no field
    name = printable(_dotted(location))
    if kind == "missing":
        return f"{name} is required.", name
    if kind == "extra_forbidden":
        return f"{name} is not a known field.{_nearest(name, fields)}", name
    expected = _expectation(fields.get(name), problem)
    if problem["type"] == "value_error" and ("; got " in expected or name.startswith(FORMAT)):
        return f"{name} {expected}.", name  # it says itself what came
    return f"{name} {expected}; got {shown(problem['input'])}.", name


def shown(value: object) -> str:
    """A value as JSON, cut where it is long, and safe to print."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    except RecursionError:
        text = "something nested very deeply"
    return cut(printable(text))


def cut(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= limit else text[:limit] + "..."


def printable(text: str) -> str:
    """The text without what cannot be sent or would garble a terminal."""
    return cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), 500)


def _about_the_whole(problem: Mapping[str, Any], whole: str) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "missing":
        return f"The body is empty: expected a JSON object ({_JSON_TYPE})."
    if kind == "value_error":
        return f"{problem['ctx']['error']}."
    if kind == "string_unicode":
        return f"The names of the {whole}'s fields must be valid Unicode, without lone surrogates."
    if isinstance(value, bytes):
        return f"The body must be a JSON object, sent with {_JSON_TYPE}."
    return f"The {whole} must be a JSON object; got {shown(value)}."


def _expectation(field: FieldInfo | None, problem: Mapping[str, Any]) -> str:
    if problem["type"] in _OUT_OF_RANGE and field is not None:
        return f"must be {_range_of(field)}"
    if problem["type"] == "value_error":
        return printable(str(problem["ctx"]["error"]))
    if problem["type"] in _NO_FORM:
        return f"must be an object whose type is one of {', '.join(FORMATS)}"
    if problem["type"] == "string_unicode":
        return "must be valid Unicode, without lone surrogates"
    if problem["type"] == "string_too_short" and problem["ctx"]["min_length"] == 1:
        return "must not be empty"
    message = re.sub(r"( after validation, not \d+|, unable to parse .*)$", "", str(problem["msg"]))
    return _SHOULD.sub("must ", message)


def _range_of(field: FieldInfo) -> str:
    """`from 0 to 2`, `at least 1` or `above 0`, by the field's constraints."""
    bounds = {
        k: getattr(mark, k)
        for mark in field.metadata
        for k in ("gt", "ge", "le")
        if hasattr(mark, k)
    }
    if "gt" in bounds:
        return f"above {bounds['gt']}"
    if "le" not in bounds:
        return f"at least {bounds['ge']}"
    return f"from {bounds['ge']} to {bounds['le']}"


def _dotted(location: Sequence[object]) -> str:
    """`messages[0].role` for `("messages", 0, "role")`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else str(part)
    return path


def _nearest(name: str, fields: Mapping[str, FieldInfo]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f" Did you mean {close[0]}?" if close else ""
