"""Calls in a model's answer, whole and in pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.tool_calls.call_json import MAX_HEAD_CHARS
from common.tool_calls.families import Family
from common.tool_calls.parser import (
    ArgumentsDelta,
    CallStart,
    ContentDelta,
    Event,
    ParsedAnswer,
    ToolCall,
    ToolCallParser,
    parse,
)

HERMES = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
LLAMA = '{"name": "f", "parameters": {"a": 1}}'
MISTRAL = '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'
F = ToolCall("f", '{"a": 1}')
G = ToolCall("g", "{}")

FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    *('{"name": "f", "arguments": {"a": "}<"}}', '{"name": "g", "parameters": {}}', HERMES),
    *('{"arguments": {"b": [1, {}]}, "name": "h"}', '{"name": "f"}', "f", '{"a": "\\"}"}', MISTRAL),
    '{"type": null, "id": -1e5, "name": "f", "arguments": {"a": "\\\\\\"}"}, "id": 12}',
    *('{"name"', ': "f", ', '"arguments": ', '"id": 7', "{", "}", "[", "]", ",", ";", '"', "\\"),
    *(
        " ",
        "\n",
        "null",
        "The answer",
        "<",
        "<tool",
        "é",
        "[TOOL",
        '"{\\"a\\": 1}"',
        '"type": null',
    ),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
FAMILIES = st.sampled_from(list(Family))


def in_pieces(text: str, cuts: list[int], family: Family) -> list[Event]:
    parser = ToolCallParser(family)
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    events: list[Event] = []
    for begin, end in pairwise(places):
        events += parser.feed(text[begin:end])
    return [*events, *parser.close()]


def joined(events: list[Event]) -> ParsedAnswer:
    content, calls = "", list[ToolCall]()
    for event in events:
        if isinstance(event, ContentDelta):
            content += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append(ToolCall(event.name, ""))
        else:
            assert event.index == len(calls) - 1
            calls[-1] = ToolCall(calls[-1].name, calls[-1].arguments + event.text)
    return ParsedAnswer(content, tuple(calls))


@settings(max_examples=1500, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 400), max_size=20), FAMILIES)
def test_any_pieces_give_what_the_whole_text_gives(
    text: str, cuts: list[int], family: Family
) -> None:
    assert joined(in_pieces(text, cuts, family)) == parse(text, family)


@settings(max_examples=500, deadline=None)
@given(TEXTS, FAMILIES)
def test_a_text_without_a_call_comes_out_as_it_is(text: str, family: Family) -> None:
    parsed = parse(text, family)
    if not parsed.calls:
        assert parsed.content == text


@settings(max_examples=500, deadline=None)
@given(TEXTS, FAMILIES)
def test_what_is_read_is_in_the_text(text: str, family: Family) -> None:
    # Nothing is made up, and content is a subsequence of the text.
    parsed = parse(text, family)
    rest = iter(text)
    assert all(char in rest for char in parsed.content)
    assert all(call.name in text for call in parsed.calls)


@pytest.mark.parametrize(
    ("family", "text", "content", "calls"),
    [
        (Family.HERMES, HERMES, "", (F,)),
        (Family.HERMES, f"\n{HERMES}\n{HERMES}\n", "", (F, F)),
        (Family.HERMES, f"Let me see.\n{HERMES}", "Let me see.\n", (F,)),
        (Family.HERMES, f"{HERMES} Done.", " Done.", (F,)),
        (Family.HERMES, '<tool_call>{"name": "g"}</tool_call>', "", (G,)),
        (Family.HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}', "", (F,)),
        (Family.HERMES, LLAMA, LLAMA, ()),
        (Family.LLAMA, LLAMA, "", (F,)),
        (Family.LLAMA, f"<|python_tag|>{LLAMA}", "", (F,)),
        (Family.LLAMA, f"{LLAMA}; {LLAMA}\n{LLAMA}", "", (F, F, F)),
        (Family.LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", ()),
        (Family.LLAMA, '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', ()),
        (Family.LLAMA, f"Call {LLAMA}", f"Call {LLAMA}", ()),
        (Family.MISTRAL, MISTRAL, "", (F,)),
        (Family.MISTRAL, MISTRAL.removeprefix("[TOOL_CALLS]"), "", (F,)),
        (Family.MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "", (F, G)),
        (Family.MISTRAL, '[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"a": 1}', "", (F,)),
        (Family.MISTRAL, '[TOOL_CALLS] f{"a": 1}', "", (F,)),
        (Family.MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "x"}]', "", (F,)),
        (Family.MISTRAL, "[1, 2]", "[1, 2]", ()),
        (Family.GENERIC, HERMES, "", (F,)),
        (Family.GENERIC, LLAMA, "", (F,)),
        (Family.GENERIC, f"[{LLAMA}, {LLAMA}]", "", (F, F)),
        (Family.GENERIC, '{"name": "f", "arguments": "{\\"a\\": 1}"}', "", (F,)),
        (Family.GENERIC, ' {"a": 1} ', ' {"a": 1} ', ()),
    ],
)
def test_a_familys_calls_are_read(
    family: Family, text: str, content: str, calls: tuple[ToolCall, ...]
) -> None:
    assert parse(text, family) == ParsedAnswer(content, calls)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnothing like JSON\n</tool_call>",
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"function": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"arguments": {"a": }, "name": "f"}</tool_call>',
        '<tool_call>{"name": "f"',
        "<tool_call",
        '<tool_call>{"name": "' + "f" * MAX_HEAD_CHARS + '", "arguments": {}}</tool_call>',
    ],
)
def test_what_is_no_call_comes_out_as_content(text: str) -> None:
    assert parse(text, Family.HERMES) == ParsedAnswer(text, ())


def test_a_call_behind_one_that_is_none_is_read() -> None:
    assert parse(f"<tool_call>no</tool_call>{HERMES}", Family.HERMES) == ParsedAnswer(
        "<tool_call>no</tool_call>", (F,)
    )


def test_a_marker_within_arguments_is_text() -> None:
    arguments = json.dumps({"html": "</tool_call><tool_call>{}"})
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert parse(text, Family.HERMES) == ParsedAnswer("", (ToolCall("f", arguments),))


@pytest.mark.parametrize("value", ['"}', "\\", '\\"}', "]}", "{"])
def test_what_ends_an_object_ends_it_only_outside_of_texts(value: str) -> None:
    arguments = json.dumps({"a": value})
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert parse(text, Family.HERMES) == ParsedAnswer("", (ToolCall("f", arguments),))


def test_a_call_that_was_cut_off_has_the_arguments_that_came() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"city": "Par'
    assert parse(text, Family.HERMES) == ParsedAnswer("", (ToolCall("f", '{"city": "Par'),))


def test_content_is_held_back_only_while_it_may_be_a_marker() -> None:
    parser = ToolCallParser(Family.HERMES)
    assert parser.feed("a < b") == [ContentDelta("a < b")]
    assert parser.feed(" <tool") == [ContentDelta(" ")]
    assert parser.feed("box>") == [ContentDelta("<toolbox>")]


def test_arguments_come_as_they_are_written() -> None:
    parser = ToolCallParser(Family.HERMES)
    assert parser.feed('<tool_call>{"name": "f", "argum') == []
    assert parser.feed('ents": {') == [CallStart(0, "f"), ArgumentsDelta(0, "{")]
    assert parser.feed('"a"') == [ArgumentsDelta(0, '"a"')]
    assert parser.feed(": 1}}") == [ArgumentsDelta(0, ": 1}")]
    assert parser.feed("</tool_call>") == []
    assert parser.close() == []
    assert parser.num_calls == 1
