from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from common.grammar import GrammarKind, GrammarSpec
from common.sampling import SamplingSpec

BYTES = LLTokenizer("byte")


def fits(grammar: GrammarSpec, text: str) -> bool:
    matcher = LLMatcher(BYTES, json.dumps({"grammars": [{"lark_grammar": grammar.lark()}]}))
    assert not matcher.is_error(), matcher.get_error()
    tokens = BYTES.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        ("json_object", "", ['{"a": [1, null]}', "{}"], ["[]", "1", "{"]),
        ("json_schema", '{"type": "integer"}', ["5", "-12"], ["5.5", '"5"']),
        ("regex", r"\d/\w+|a b", ["1/ab", "a b"], ["1/", "/", "a  b", "٣/a"]),
        ("regex", "a\nb", ["a\nb"], ["a b", "anb"]),
        ("choice", '["a", "ab", "\\"\\n\\\\d/"]', ["a", "ab", '"\n\\d/'], ["", "abb", "d/"]),
        ("lark", 'start: "x" start | "y"', ["y", "xxy"], ["x", "yx"]),
    ],
)
def test_each_kind_says_what_it_means(
    kind: GrammarKind, text: str, good: list[str], bad: list[str]
) -> None:
    grammar = GrammarSpec(kind, text)
    assert [fits(grammar, one) for one in good] == [True] * len(good)
    assert [fits(grammar, one) for one in bad] == [False] * len(bad)


def test_white_space_in_json_is_what_models_write_and_no_more() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "x-guidance": {"lenient": True}}
    grammar = GrammarSpec("json_schema", json.dumps(schema))
    for text in ("[1,2]", "[1, 2]", "[\n  1,\n  2\n]"):
        assert fits(grammar, text)
    for text in ("[1,  2]", "[1,\n\n2]", " [1]", "[1] "):
        assert not fits(grammar, text)


def test_a_schema_cannot_ask_for_leniency() -> None:
    schema = {"not": {"type": "integer"}, "x-guidance": {"lenient": True}}
    grammar = json.dumps({"grammars": [{"lark_grammar": _lark(schema)}]})
    assert LLMatcher(BYTES, grammar, log_level=0).is_error()


def test_it_is_the_same_after_the_record() -> None:
    for grammar in (None, GrammarSpec("json_object"), GrammarSpec("regex", "é\\d")):
        spec = SamplingSpec(5, 60.0, 1, grammar=grammar)
        assert SamplingSpec.unpack(spec.pack()) == spec


def _lark(schema: object) -> str:
    return GrammarSpec("json_schema", json.dumps(schema)).lark()
