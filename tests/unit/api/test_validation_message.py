from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.schemas import GenerateRequest
from api.validation_message import explain, printable, shown

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([*GenerateRequest.model_fields, "other"]), JSON, max_size=5)
    | JSON
)
def test_whatever_comes_is_refused_with_one_short_line_of_text(body: object) -> None:
    try:
        GenerateRequest.model_validate(body)
    except ValidationError as error:
        message, _ = explain(error.errors(), GenerateRequest.model_fields)
        assert message.isprintable()
        assert len(message) < 800
        assert message.encode()


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\ud800", "\0", "a\u202eb"])
def test_what_would_garble_a_terminal_is_escaped(text: str) -> None:
    assert printable(text).isprintable()


def test_a_value_is_shown_as_json_and_cut() -> None:
    assert shown({"a": [1, None]}) == '{"a": [1, null]}'
    assert shown("ä") == '"ä"'
    assert shown("x" * 500) == '"' + "x" * 99 + "..."
    assert shown(object).startswith("<class")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (
            "logit_bias",
            {str(i): 1 for i in range(1025)},
            "must have at most 1024 tokens; got 1025.",
        ),
        ("logit_bias", {"x": 1}, 'must have token ids as its names, as in {"50256": -100}; got {'),
        ("top_k", 2**31, "must be from 0 to 2147483647; got 2147483648."),
        (
            "response_format",
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"properties": {"\n": {"items": [{}]}}}},
            },
            r"schema cannot be used: /properties/\n/items must be one schema; a list of them",
        ),
    ],
)
def test_what_came_is_told_once(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValidationError) as raised:
        GenerateRequest.model_validate({"prompt": "a", field: value})
    message, _ = explain(raised.value.errors(), GenerateRequest.model_fields)
    assert expected in message
    assert message.count("got") == (0 if field == "response_format" else 1)
