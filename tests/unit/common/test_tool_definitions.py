"""The `tools` and `tool_choice` of a request."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.errors import InvalidRequestError
from common.tool_calls.definitions import Tool, ToolChoice, parse_tool_choice, parse_tools
from common.tool_calls.families import Family, family_of, new_call_id
from tests.unit.common.chat_templates import CHATML, GEMMA, LLAMA3, MISTRAL

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_a_function_is_read_with_its_schema() -> None:
    (parsed,) = parse_tools([tool(description="d", parameters=SCHEMA, strict=True)])
    assert parsed == Tool("f", "d", SCHEMA, strict=True)
    assert parsed.for_template() == tool(description="d", parameters=SCHEMA)


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    (parsed,) = parse_tools([tool()])
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert parsed.for_template() == tool(parameters=nothing)


@pytest.mark.parametrize("tools", [None, []])
def test_no_tools_are_no_tools(tools: Any) -> None:
    assert parse_tools(tools) == ()


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ({}, "tools"),
        ([tool(name=f"f{i}") for i in range(129)], "tools"),
        ([{}], "tools[0].type"),
        ([{**tool(), "x": 1}], "tools[0].x"),
        ([{"type": "function"}], "tools[0].function"),
        ([tool(x=1)], "tools[0].function.x"),
        ([tool(name="")], "tools[0].function.name"),
        ([tool(name="a b")], "tools[0].function.name"),
        ([tool(name="a" * 65)], "tools[0].function.name"),
        ([tool(name="f\n")], "tools[0].function.name"),
        ([tool(), tool()], "tools[1].function.name"),
        ([tool(description=1)], "tools[0].function.description"),
        ([tool(strict="yes")], "tools[0].function.strict"),
        ([tool(parameters=[])], "tools[0].function.parameters"),
        ([tool(parameters={"type": "string"})], "tools[0].function.parameters"),
        ([tool(parameters={"properties": []})], "tools[0].function.parameters.properties"),
        ([tool(parameters={"a": float("nan")})], "tools[0].function.parameters"),
        ([tool(parameters={"a": "\ud800"})], "tools[0].function.parameters"),
        ([tool(parameters={"a": "x" * 70_000})], "tools[0].function.parameters"),
    ],
)
def test_what_is_wrong_with_a_tool_is_named_to_the_leaf(tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_tools(tools)
    assert caught.value.param == param


def test_a_schema_may_be_nested_only_so_deep() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(InvalidRequestError, match="64 levels"):
        parse_tools([tool(parameters=schema)])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        (named("f"), ToolChoice("named", "f")),
    ],
)
def test_a_tool_choice_is_read(choice: Any, expected: ToolChoice) -> None:
    assert parse_tool_choice(choice, parse_tools([tool()])) == expected
    assert expected.is_forced == (expected.mode in ("required", "named"))


@pytest.mark.parametrize("choice", [None, "none"])
def test_without_tools_the_choice_is_none(choice: Any) -> None:
    assert parse_tool_choice(choice, ()) == ToolChoice("none")


@pytest.mark.parametrize(
    ("choice", "tools", "param"),
    [
        ("required", [], "tool_choice"),
        ("auto", [], "tool_choice"),
        ("always", [tool()], "tool_choice"),
        (1, [tool()], "tool_choice"),
        ({"type": "function"}, [tool()], "tool_choice"),
        (named("g"), [tool()], "tool_choice.function.name"),
    ],
)
def test_a_choice_that_cannot_be_kept_is_refused(choice: Any, tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_tool_choice(choice, parse_tools(tools))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("template", "family"),
    [
        (CHATML, Family.HERMES),
        (LLAMA3, Family.LLAMA),
        (MISTRAL, Family.MISTRAL),
        (GEMMA, Family.GENERIC),
        ("{{ tools }}<tool_call><function=f>", Family.GENERIC),
        (None, Family.GENERIC),
    ],
)
def test_a_family_is_told_from_the_template(template: str | None, family: Family) -> None:
    assert family_of(template) is family


def test_mistrals_ids_are_those_that_its_templates_take() -> None:
    assert re.fullmatch("[a-zA-Z0-9]{9}", new_call_id(Family.MISTRAL))
    assert new_call_id(Family.HERMES).startswith("call_")
