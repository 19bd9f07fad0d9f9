"""Grammars with a check that knows them without llguidance, and an engine that waits for them."""

import json
import re
from collections.abc import Callable

from common.grammar import GrammarSpec
from tests.unit.engine.drive import Answer, Drive
from worker.engine.sequence import FinishReason

SEEDS = range(24)
WAIT_S = 60.0

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
EITHER = {"anyOf": [{"type": "null"}, {"type": "integer", "multipleOf": 5, "maximum": 99}]}
CHOICES = ["a", "ab", "abc", 'größe "q"', "/x\n"]
SUM = 'start: t\nt: /[0-9]{1,3}/ | "(" t "+" t ")"'


def schema(value: object) -> str:
    return GrammarSpec("json_schema", json.dumps(value)).lark()


def regex(text: str) -> str:
    return GrammarSpec("regex", text).lark()


JSON_OBJECT = GrammarSpec("json_object").lark()
CHOICE = GrammarSpec("choice", json.dumps(CHOICES)).lark()


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 6
        and 0 <= value["age"] <= 150
        and 1 <= len(value["tags"]) <= 2
        and set(value["tags"]) <= {"a", "b"}
    )


def is_tree(text: str) -> bool:
    node = json.loads(text)
    while node is not None:
        if not set(node) <= {"v", "next"} or not isinstance(node["v"], bool):
            return False
        node = node.get("next")
    return True


def is_sum(text: str) -> bool:
    while re.search(r"\(\d{1,3}\+\d{1,3}\)", text):
        text = re.sub(r"\(\d{1,3}\+\d{1,3}\)", "0", text)
    return re.fullmatch(r"\d{1,3}", text) is not None


def is_either(text: str) -> bool:
    value = json.loads(text)
    return value is None or (isinstance(value, int) and value % 5 == 0 and value <= 99)


CASES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "json object": (JSON_OBJECT, lambda text: isinstance(json.loads(text), dict)),
    "person": (schema(PERSON), is_person),
    "recursive": (schema(TREE), is_tree),
    "either": (schema(EITHER), is_either),
    "regex": (
        regex(r"(\d{3}-){2}[a-z/]{1,4}"),
        lambda text: re.fullmatch(r"([0-9]{3}-){2}[a-z/]{1,4}", text) is not None,
    ),
    "choice": (CHOICE, lambda text: text in CHOICES),
    "lark": (SUM, is_sum),
}


class Guided(Drive):
    """Steps an engine, and waits where all that is left is a grammar that compiles."""

    def finish(self) -> "Guided":
        while self.engine.num_waiting or self.engine.num_running:
            assert self.engine.has_work or self.engine.wait(WAIT_S), "no grammar came in time"
            self.step()
        return self


def check(answer: Answer, is_valid: Callable[[str], bool]) -> bool:
    """Whether the answer came to its end; then it has to be valid."""
    if answer.reason is FinishReason.LENGTH:
        return False
    assert answer.reason is FinishReason.STOP, answer.last
    assert is_valid(answer.text), answer.text
    return True
