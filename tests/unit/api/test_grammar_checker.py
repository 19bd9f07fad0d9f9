"""Hostile grammars: each is refused in bounded time, and leaves a gateway that goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import grammar_checker
from api.grammar_checker import GrammarChecker
from common.errors import InvalidRequestError, QueueFullError, RateLimitError
from common.grammar import GrammarSpec

FINE = GrammarSpec("regex", "[ab]+")


@pytest.fixture
async def checker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GrammarChecker]:
    # The machine that runs the tests may be as busy as it likes.
    monkeypatch.setattr(grammar_checker, "WALL_LIMIT_S", 150.0)
    checker = GrammarChecker()
    yield checker
    await checker.close()


def schema(value: object) -> GrammarSpec:
    return GrammarSpec("json_schema", json.dumps(value))


def refs(num: int) -> GrammarSpec:
    names = {f"a{i}": {"properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(num)}
    return schema({"$defs": {**names, f"a{num}": {"type": "string"}}, "$ref": "#/$defs/a0"})


def all_of(num: int, wide: int) -> GrammarSpec:
    def part(i: int) -> dict[str, Any]:
        return {"anyOf": [{"properties": {f"p{i}_{j}": {"type": "string"}}} for j in range(wide)]}

    return schema({"allOf": [part(i) for i in range(num)]})


HOSTILE = {
    "an optional part, a thousand times": GrammarSpec("regex", "a?" * 2000 + "a" * 2000),
    "stars of stars": GrammarSpec("regex", "(a*)*" * 1000),
    "parentheses": GrammarSpec("regex", "(" * 4000 + "a" + ")" * 4000),
    "look-ahead": GrammarSpec("regex", "(?=a)b"),
    "nothing": GrammarSpec("regex", r"[^\s\S]"),
    "repetitions within repetitions": GrammarSpec(
        "regex", "((([a-z]{0,1000}){0,1000}){0,1000}x){0,1000}"
    ),
    "a chain of references": refs(1000),
    "a reference to itself": schema({"$ref": "#"}),
    "a product of alternatives": all_of(20, 4),
    "10,000 properties": schema({"properties": {f"p{i}": {} for i in range(10_000)}}),
    "a property per line": schema(
        {
            "type": "object",
            "properties": {f"p{i}": {"type": "string"} for i in range(2000)},
            "additionalProperties": False,
        }
    ),
    "a large multiple": schema({"type": "integer", "multipleOf": 1_000_003}),
    "objects to choose from": schema({"enum": [{"a": i, "b": [i, i]} for i in range(2500)]}),
    "a remote reference": schema({"$ref": "https://example.com/schema.json"}),
    "a chain of rules": GrammarSpec(
        "lark", "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(4000)), 'r4000: "a"'])
    ),
    "terminals that double": GrammarSpec(
        "lark",
        "\n".join(["start: R0", *(f"R{i}: R{i + 1} R{i + 1}" for i in range(60)), 'R60: "a"']),
    ),
    "many ways to read it": GrammarSpec(
        "lark",
        "\n".join(
            [
                "start: " + " | ".join(f"r{i}" for i in range(300)),
                *(
                    f"r{i}: /[a-z]/ r{(i * 7 + 1) % 300} | /[a-m]/ r{(i * 3 + 2) % 300} | /[a-z]/"
                    for i in range(300)
                ),
            ]
        ),
    ),
    "no Lark": GrammarSpec("lark", "{"),
}

DEMANDING = {
    "a million letters": GrammarSpec("regex", "a{1000000}"),
    "an alternative of overlapping parts": GrammarSpec("regex", "((a|aa)*){1000}"),
    "a recursive schema": schema(
        {
            "$defs": {"n": {"properties": {"c": {"$ref": "#/$defs/n"}}}},
            "$ref": "#/$defs/n",
        }
    ),
    "a long list": schema({"type": "array", "minItems": 10**9}),
    "a thousand choices": GrammarSpec("choice", json.dumps([f"choice {i}" for i in range(1000)])),
    "an enum": schema({"enum": [f"value number {i}" for i in range(2000)]}),
    "a text of 60 KB": schema({"const": "x" * 60_000}),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_cannot_be_bounded_is_refused(checker: GrammarChecker, name: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await checker.check(HOSTILE[name], "key")
    assert raised.value.param == "response_format"
    assert raised.value.message.startswith("response_format cannot be used: ")
    assert "\n" not in raised.value.message
    assert "llguidance" not in raised.value.message
    await checker.check(FINE, "key")


@pytest.mark.parametrize("name", DEMANDING)
async def test_what_can_be_bounded_is_not(checker: GrammarChecker, name: str) -> None:
    await checker.check(DEMANDING[name], "key")


async def test_what_was_found_is_remembered(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await checker.check(FINE, "key")
    with pytest.raises(InvalidRequestError):
        await checker.check(HOSTILE["a chain of references"], "key")

    async def fail(self: object, lark: str) -> None:
        pytest.fail("it is tried again")

    monkeypatch.setattr(GrammarChecker, "_try", fail)
    await checker.check(FINE, "another key")
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        await checker.check(HOSTILE["a chain of references"], "key")


async def test_one_key_does_not_keep_the_probes_from_others(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, entered = asyncio.Event(), asyncio.Event()

    async def held(self: object, lark: str) -> None:
        if "x" in lark:
            entered.set()
            await leave.wait()

    monkeypatch.setattr(GrammarChecker, "_try", held)
    slow = [
        asyncio.create_task(checker.check(GrammarSpec("regex", "x" * (i + 1)), "greedy"))
        for i in range(grammar_checker.MAX_WAITING_PER_KEY + 1)
    ]
    await entered.wait()
    await checker.check(FINE, "another key")
    with pytest.raises(RateLimitError):
        await checker.check(GrammarSpec("regex", "y"), "greedy")
    leave.set()
    await asyncio.gather(*slow)
    await checker.check(GrammarSpec("regex", "y"), "greedy")


async def test_a_machine_too_busy_to_try_it_says_so(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_checker, "WALL_LIMIT_S", 0.0)
    with pytest.raises(QueueFullError) as raised:
        await checker.check(FINE, "key")
    assert raised.value.retry_after_s
    monkeypatch.setattr(grammar_checker, "WALL_LIMIT_S", 150.0)
    await checker.check(FINE, "key")


async def test_an_answer_never_comes_for_somebody_else(checker: GrammarChecker) -> None:
    await checker.check(FINE, "key")
    for i in range(8):  # whenever the client goes, what it asked for is not the next one's answer
        gone = asyncio.create_task(checker.check(GrammarSpec("regex", f"(bad {i}"), "key"))
        for _ in range(i):
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await checker.check(GrammarSpec("regex", f"good {i}"), "key")


async def test_a_compiler_that_breaks_is_not_taken_for_nesting(checker: GrammarChecker) -> None:
    endless = {"type": "integer", "minimum": -(10**30), "maximum": -(10**20)}
    with pytest.raises(InvalidRequestError, match="the compiler breaks on it"):
        await checker.check(schema(endless), "key")
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        await checker.check(refs(1000), "key")
