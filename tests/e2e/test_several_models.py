"""Several real models behind the real service, with the calls of a multi-model client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import two_models
from tests.e2e.service import Service

BUNDLED = "llama-7b"
TINY = "mistral-7b"
WAIT = {"Prefer": "wait=60"}


@pytest.fixture(scope="module")
def service(llama_and_mistral: Service) -> Service:
    return llama_and_mistral


def generate(service: Service, **fields: Any) -> dict[str, Any]:
    with service.http() as http:
        answer = http.post("/generate", headers=WAIT, json=fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def listed(service: Service) -> dict[str, bool]:
    with service.http() as http:
        return {each["id"]: each["loaded"] for each in http.get("/models").json()["models"]}


def test_a_model_gives_the_same_tokens_by_its_id_and_its_alias_and_another_one_others(
    service: Service,
) -> None:
    fields = {"prompt": "Hello", "max_tokens": 10, "seed": 3, "raw": True, "ignore_eos": True}
    by_id = generate(service, model="mistral-7b", **fields)["token_ids"]
    assert generate(service, model_id="mistral", **fields)["token_ids"] == by_id
    assert generate(service, model="llama-7b", **fields)["token_ids"] != by_id


def test_jobs_of_two_models_run_at_the_same_time(service: Service) -> None:
    long: dict[str, Any] = {"raw": True, "max_tokens": 400, "ignore_eos": True}
    ids = [service.submit(model=model, **long) for model in (BUNDLED, TINY) for _ in range(4)]
    results = [service.result(task_id) for task_id in ids]
    assert [result["num_generated"] for result in results] == [400] * 8


def test_with_room_for_one_model_each_is_loaded_when_its_job_comes(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_service(
        MODELS=json.dumps(two_models(tmp_path)), MODEL_CACHE_SIZE=1, KV_CACHE_GIB=0.2
    )
    service.wait_until_ready()
    assert listed(service) == {BUNDLED: True, TINY: False}
    for model, other in ((TINY, BUNDLED), (BUNDLED, TINY)):
        assert generate(service, prompt="Hello", max_tokens=5, model=model)["num_generated"] > 0
        service.wait_for(f"Model {other} is unloaded")
        service.wait_for(f"Model {model} is ready on")
        while listed(service) != {model: True, other: False}:  # the gateway looks once a second
            assert service.process.poll() is None
    with service.http() as http:
        assert http.get("/health").json()["status"] == "healthy"
