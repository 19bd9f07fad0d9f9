"""Structured output from the real service, with the bundled model."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.e2e.service import Service

CHARACTER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "animal": {"enum": ["dog", "cat", "bird"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "animal", "age"],
    "additionalProperties": False,
}


def of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}


def test_a_schema_is_obeyed_in_chat_and_raw(service: Service) -> None:
    for raw in (False, True):
        for seed in range(3):
            task_id = service.submit(
                "Tell me of an animal.",
                raw=raw,
                seed=seed,
                temperature=1.5,
                response_format=of_schema(CHARACTER),
            )
            result = service.result(task_id)
            value = json.loads(result["result"])
            assert result["finish_reason"] == "stop"
            assert list(value) == ["name", "animal", "age"]
            assert re.fullmatch("[A-Z][a-z]{1,8}", value["name"])
            assert value["animal"] in ("dog", "cat", "bird")
            assert 1 <= value["age"] <= 99


def test_a_hostile_schema_is_refused_while_others_run(service: Service) -> None:
    running = service.submit(raw=True, max_tokens=400, ignore_eos=True, seed=5)
    chosen = service.submit(response_format={"type": "choice", "choices": ["yes", "no"]})
    hostile = of_schema({"type": "integer", "multipleOf": 1_000_003})
    with service.http() as http:
        for schema in (hostile, hostile):
            body = {"prompt": "hello", "response_format": schema}
            response = http.post("/generate", json=body)
            assert response.status_code == 400
            assert response.json()["param"] == "response_format"
    assert service.result(chosen)["result"] in ("yes", "no")
    assert service.result(running)["num_generated"] == 400
