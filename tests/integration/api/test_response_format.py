"""`response_format`: what is refused, why, and that nobody else waits for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from api import grammar_checker
from common import keys
from common.connection import SyncRedis
from common.grammar import GrammarSpec
from common.sampling import SamplingSpec

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NESTED: Any = "x"
for _ in range(65):
    NESTED = {"items": NESTED}


def of_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema} | more}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine that runs the tests may be as busy as it likes.
    monkeypatch.setattr(grammar_checker, "WALL_LIMIT_S", 150.0)


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        (
            {"type": "yaml"},
            "response_format must be an object whose type is one of text, json_object, "
            'json_schema, regex, choice, lark; got {"type": "yaml"}.',
        ),
        ({}, "response_format must be an object whose type is one of"),
        ("json_object", "response_format must be an object whose type is one of"),
        ({"type": "json_schema"}, "response_format.json_schema is required."),
        (
            {"type": "json_schema", "json_schema": {"name": "n"}},
            "response_format.json_schema.schema is required.",
        ),
        (of_schema([1]), "response_format.json_schema.schema must be a valid dictionary; got [1]."),
        (of_schema(SCHEMA, extra=1), "response_format.json_schema.extra is not a known field."),
        (of_schema(NESTED), "response_format.json_schema.schema must be nested at most 64 levels"),
        (
            of_schema({"const": "x" * 70_000}),
            "response_format.json_schema.schema must have at most 65536 bytes",
        ),
        ({"type": "regex", "regex": ""}, "response_format.regex must not be empty"),
        (
            {"type": "regex", "regex": "a" * 9000},
            "response_format.regex must have at most 8192 characters",
        ),
        (
            {"type": "choice", "choices": []},
            "response_format.choices must have at least 1 item",
        ),
        (
            {"type": "choice", "choices": ["a", 1]},
            "response_format.choices[1] must be a valid string; got 1.",
        ),
        (
            {"type": "choice", "choices": ["x"] * 1001},
            "response_format.choices must have at most 1000 items",
        ),
        (
            {"type": "choice", "choices": [f"{i:4000}" for i in range(20)]},
            "response_format.choices must have at most 65536 bytes together",
        ),
        (
            {"type": "lark", "lark": "start: x"},
            'response_format cannot be used: at 1(8): unknown name: "x".',
        ),
        (
            {"type": "regex", "regex": "(?=a)b"},
            "response_format cannot be used: look-around, including look-ahead and look-behind",
        ),
        (
            of_schema({"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
            "response_format cannot be used: oneOf constraints are not supported.",
        ),
        (
            of_schema({"type": "integer", "multipleOf": 1_000_003}),
            "response_format cannot be used: it takes more than a second to compile.",
        ),
        (
            of_schema({"type": "array", "items": {"type": "nothing"}}),
            "response_format cannot be used: ",
        ),
    ],
)
async def test_what_cannot_be_used_is_a_400_that_says_why(
    http: httpx.AsyncClient, response_format: Any, message: str
) -> None:
    body = {"prompt": "hello", "response_format": response_format}
    response = await http.post("/generate", json=body)
    assert response.status_code == 400
    answer = response.json()
    assert answer["error"].startswith(message), answer
    assert answer["param"].startswith("response_format")
    assert len(answer["error"]) < 700


async def test_a_body_nested_beyond_all_bounds_is_a_400(http: httpx.AsyncClient) -> None:
    for depth in (500, 900, 990, 100_000):
        schema = '{"items":' * depth + "1" + "}" * depth
        form = f'{{"type":"json_schema","json_schema":{{"name":"n","schema":{schema}}}}}'
        content = f'{{"prompt":"hello","response_format":{form}}}'
        response = await http.post(
            "/generate", content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, GrammarSpec("json_object")),
        (
            of_schema(SCHEMA, strict=True),
            GrammarSpec("json_schema", json.dumps(SCHEMA, separators=(",", ":"))),
        ),
        ({"type": "regex", "regex": r"\d{3}"}, GrammarSpec("regex", r"\d{3}")),
        ({"type": "choice", "choices": ["ja", "nö"]}, GrammarSpec("choice", '["ja","nö"]')),
        ({"type": "lark", "lark": 'start: "a"'}, GrammarSpec("lark", 'start: "a"')),
    ],
)
async def test_it_travels_with_the_job(
    http: httpx.AsyncClient, client: SyncRedis, response_format: Any, grammar: GrammarSpec | None
) -> None:
    body = {"prompt": "hello", "response_format": response_format}
    response = await http.post("/generate", json=body)
    assert response.status_code == 202, response.text
    packed = client.hget(keys.job(response.json()["task_id"]), "params")
    assert SamplingSpec.unpack(str(packed)).grammar == grammar


async def test_others_are_served_while_a_hostile_schema_is_tried(
    http: httpx.AsyncClient,
) -> None:
    hostile = of_schema({"type": "integer", "multipleOf": 1_000_003})
    tried = asyncio.create_task(
        http.post("/generate", json={"prompt": "hello", "response_format": hostile})
    )
    served = 0
    while not tried.done() and served < 20:  # 20 are proof enough, and no rate limit is reached
        response = await http.post("/generate", json={"prompt": "hello"})
        assert response.status_code == 202
        served += not tried.done()
    assert (await tried).status_code == 400
    assert served > 0
