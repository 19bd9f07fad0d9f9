"""Grammars that force calls: what they let through is read as calls, and nothing else passes."""

from __future__ import annotations

import json
import random

import pytest
from llguidance import LLMatcher, LLTokenizer

from common.grammar import GrammarSpec
from common.tool_calls.definitions import ToolChoice, parse_tools
from common.tool_calls.families import Family
from common.tool_calls.forcing import MAX_FORCED_CALLS, grammar_for
from common.tool_calls.parser import parse

WEATHER = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Rome", 'a "q"}']}},
}
TOOLS = parse_tools(
    [
        {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
        {
            "type": "function",
            "function": {
                "name": "stop",
                "parameters": {"type": "object", "additionalProperties": False},
            },
        },
    ]
)
REQUIRED, NAMED = ToolChoice("required"), ToolChoice("named", "weather")
TOKENIZER = LLTokenizer("byte")


def matcher(grammar: GrammarSpec) -> LLMatcher:
    made = LLMatcher(
        TOKENIZER, json.dumps({"grammars": [{"lark_grammar": grammar.lark()}]}), log_level=0
    )
    assert not made.is_error(), made.get_error()
    return made


def forced(choice: ToolChoice, family: Family, *, parallel: bool = True) -> LLMatcher:
    grammar = grammar_for(choice, TOOLS, family, parallel=parallel)
    assert grammar is not None
    return matcher(grammar)


def drawn(choice: ToolChoice, family: Family, seed: int) -> str:
    """A text of random tokens that the grammar allows; it ends where it may, mostly."""
    state, draws, text = forced(choice, family), random.Random(seed), b""
    while not state.is_stopped():
        bits = int.from_bytes(state.compute_bitmask(), "little")
        ids = [i for i in range(bits.bit_length()) if bits >> i & 1]
        ends = TOKENIZER.eos_token in ids
        token_id = TOKENIZER.eos_token if ends and draws.random() < 0.7 else draws.choice(ids)
        assert state.consume_token(token_id)
        text += b"" if token_id == TOKENIZER.eos_token else bytes([token_id])
    return text.decode()


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("seed", range(6))
def test_what_required_lets_through_is_read_as_calls(family: Family, seed: int) -> None:
    text = drawn(REQUIRED, family, seed)
    parsed = parse(text, family)
    assert parsed.content == ""
    assert 1 <= len(parsed.calls) <= MAX_FORCED_CALLS
    for call in parsed.calls:
        arguments = json.loads(call.arguments)
        assert arguments == {} if call.name == "stop" else arguments["city"] in ("Rome", 'a "q"}')


@pytest.mark.parametrize("family", list(Family))
def test_a_named_function_is_called_once(family: Family) -> None:
    calls = parse(drawn(NAMED, family, 0), family).calls
    assert [call.name for call in calls] == ["weather"]


@pytest.mark.parametrize("family", list(Family))
def test_without_parallel_calls_there_is_one(family: Family) -> None:
    state = forced(REQUIRED, family, parallel=False)
    one = drawn(NAMED, family, 1)
    assert state.try_consume_tokens(list(one.encode())) == len(one.encode())
    assert state.is_stopped()


@pytest.mark.parametrize("family", list(Family))
def test_plain_text_does_not_pass(family: Family) -> None:
    assert forced(REQUIRED, family).try_consume_tokens(list(b"Hello")) == 0


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_without_force_there_is_no_grammar(mode: str) -> None:
    choice = ToolChoice("auto") if mode == "auto" else ToolChoice("none")
    assert grammar_for(choice, TOOLS, Family.HERMES) is None


def test_all_tools_at_their_most_give_a_grammar_that_compiles() -> None:
    many = parse_tools(
        [
            {"type": "function", "function": {"name": f"f{i}", "parameters": WEATHER}}
            for i in range(128)
        ]
    )
    grammar = grammar_for(REQUIRED, many, Family.HERMES)
    assert grammar is not None
    text = b'<tool_call>\n{"name": "f127", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert matcher(grammar).try_consume_tokens(list(text)) == len(text)
