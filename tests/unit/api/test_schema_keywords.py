"""Schemas that the compiler would clamp or misread are refused, and what is like them is not."""

import pytest
from pydantic import TypeAdapter, ValidationError

from api.response_format import ResponseFormat
from api.schema_keywords import MOST_BOUND, MOST_COUNT, find_fault

BAD = {
    "/minimum must be from": {"type": "integer", "minimum": 2**63 - 1},
    "/maximum must be from": {"type": "integer", "maximum": -(10**20)},
    "got -100000000000000000000": {"maximum": -(10**20)},
    "/exclusiveMinimum must be a number, as since draft 6; got true": {
        "minimum": 1,
        "exclusiveMinimum": True,
    },
    "/minimum must be a number; got '1'": {"minimum": "1"},
    "/maxLength must be an integer from 0 to 4294967295; got 1000000000000000000": {
        "maxLength": 10**18
    },
    "/minItems must be an integer from 0": {"minItems": -1},
    "/minLength must be an integer from 0": {"minLength": 1.5},
    "/multipleOf must be a number above 0; got -2": {"multipleOf": -2},
    "/minProperties is not supported beside patternProperties": {
        "patternProperties": {"^a": {}},
        "minProperties": 2,
    },
    "/items must be one schema; a list of them is prefixItems": {"items": [{}, {}]},
    "/additionalItems is not supported": {"prefixItems": [{}], "additionalItems": False},
    "/x-guidance is not a keyword": {"x-guidance": {"whitespace_flexible": False}},
}
NESTED = [
    ("/properties/a", lambda bad: {"properties": {"a": bad}}),
    ("/$defs/x", lambda bad: {"$defs": {"x": bad}}),
    ("/anyOf/1", lambda bad: {"anyOf": [{}, bad]}),
    ("/items", lambda bad: {"items": bad}),
    ("/additionalProperties", lambda bad: {"additionalProperties": bad}),
]
FINE = [
    {"properties": {"minimum": {"type": "string"}, "x-guidance": {}, "items": {"items": {}}}},
    {"const": {"minimum": True, "items": [1]}},
    {"enum": [{"maxLength": -1}]},
    {"default": {"x-guidance": 1}},
    {"minimum": -MOST_BOUND, "maximum": MOST_BOUND, "exclusiveMaximum": 1.5},
    {"maxLength": MOST_COUNT, "minLength": 0},
    {"patternProperties": {"^a": {}}, "additionalProperties": False},
    {"items": False},
    {"multipleOf": 0.01},
]


@pytest.mark.parametrize("message", BAD)
def test_what_would_be_misread_is_named(message: str) -> None:
    assert message in (find_fault(BAD[message]) or "")


@pytest.mark.parametrize(("where", "around"), NESTED)
def test_it_is_found_within_other_schemas(where, around) -> None:
    for bad in BAD.values():
        assert (find_fault(around(bad)) or "").startswith(f"{where}/")


@pytest.mark.parametrize("schema", FINE)
def test_what_only_looks_like_it_is_taken(schema: dict[str, object]) -> None:
    assert find_fault(schema) is None


def test_a_request_with_such_a_schema_is_refused() -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"items": [{}]}}}
    with pytest.raises(ValidationError, match="cannot be used: /items must be one schema"):
        TypeAdapter(ResponseFormat).validate_python(asked)
