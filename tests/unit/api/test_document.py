"""The API's document as one reads it who makes a client of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.main import create_app
from common.settings import Settings

SHAPES = ("ErrorAnswer", "OpenAIError", "ReadyAnswer")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("data")
    url = "redis://127.0.0.1:1/0"
    return create_app(Settings(_env_file=None, redis_url=url, data_dir=folder)).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def objects(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from objects(each)


def test_every_operation_has_a_name_of_its_own_that_says_what_it_does(
    document: dict[str, Any],
) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names) > 30
    # The framework's own ones repeat the path and the method.
    assert [n for n in names if not re.fullmatch(r"[a-z]+(_[a-z]+){0,3}", n)] == []
    assert [n for n in names if n.endswith(("_get", "_post", "_delete"))] == []


def test_every_operation_has_a_summary_a_description_and_a_tag_that_is_declared(
    document: dict[str, Any],
) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    assert len(set(tags)) == len(tags)
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= set(tags), name


def test_no_schema_has_a_name_that_the_framework_made_up_to_tell_two_apart(
    document: dict[str, Any],
) -> None:
    assert [n for n in document["components"]["schemas"] if not re.fullmatch("[A-Za-z]+", n)] == []


def test_every_reference_is_answered(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    found = {each["$ref"] for each in objects(document) if isinstance(each.get("$ref"), str)}
    assert found <= {f"#/components/schemas/{name}" for name in schemas}


def test_every_error_is_of_one_of_our_shapes(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status >= "400":
                schema = answer["content"]["application/json"]["schema"]
                assert schema["$ref"].rpartition("/")[2] in SHAPES, (name, status)


def test_no_parameter_may_be_null_which_none_can_be(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert {"type": "null"} not in list(objects(parameter)), (name, parameter["name"])


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (name, parameter["name"])


def test_no_idempotency_key_is_given_to_copy(document: dict[str, Any]) -> None:
    """The page that tries operations out would send the same one with every request."""
    keys = [
        parameter
        for _, operation in operations(document)
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "Idempotency-Key"
    ]
    assert len(keys) > 5
    for key in keys:
        assert not {"example", "examples"} & (set(key) | set(key["schema"]))


def test_limits_of_whole_numbers_are_whole(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["GenerateRequest"]["properties"]
    assert properties["seed"]["anyOf"][0]["maximum"] == 2**63 - 1
    limits = [
        each[name]
        for each in objects(document)
        if each.get("type") == "integer"
        for name in ("minimum", "maximum")
        if name in each
    ]
    assert {type(limit) for limit in limits} == {int}


@pytest.mark.parametrize(
    ("operation_id", "event"),
    [
        ("watch_task", "TaskEvent"),
        ("generate_stream", "TokenEvent"),
        ("create_chat_completion", "ChatChunk"),
        ("create_completion", "CompletionChunk"),
        ("create_response", "ResponseEvent"),
        ("get_response", "ResponseEvent"),
    ],
)
def test_what_a_stream_sends_is_documented(
    document: dict[str, Any], operation_id: str, event: str
) -> None:
    [operation] = [o for _, o in operations(document) if o["operationId"] == operation_id]
    stream = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert {"$ref": f"#/components/schemas/{event}"} in list(objects(stream))
