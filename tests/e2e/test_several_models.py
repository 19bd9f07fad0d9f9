"""Several real models behind the real service, with the calls of a multi-model client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service
from tests.tiny_model import write_tiny_model

BUNDLED = "llama-7b"
TINY = "mistral-7b"
WAIT = {"Prefer": "wait=60"}


def models(folder: Path) -> list[dict[str, Any]]:
    """The bundled model and a tiny one, under the names of well-known ones."""
    return [
        {
            "id": BUNDLED,
            "name": "Llama 7B",
            "description": "7B parameter Llama model",
            "format": "GGUF",
            "source": "baton-toy",
        },
        {
            "id": TINY,
            "name": "Mistral 7B",
            "description": "Mistral 7B instruction model",
            "path": str(write_tiny_model(folder / "tiny")),
            "aliases": ["mistral"],
            "max_batch_size": 2,
        },
    ]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose one worker has both models loaded."""
    folder = tmp_path_factory.mktemp("several")
    service = Service(folder, MODELS=json.dumps(models(folder)), KV_CACHE_GIB=0.2)
    service.start()
    try:
        service.wait_until_ready()
        service.wait_for(f"Model {TINY} is ready on")
        yield service
    finally:
        service.stop()


def generate(service: Service, **fields: Any) -> dict[str, Any]:
    with service.http() as http:
        answer = http.post("/generate", headers=WAIT, json=fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def listed(service: Service) -> dict[str, bool]:
    with service.http() as http:
        return {each["id"]: each["loaded"] for each in http.get("/models").json()["models"]}


def test_the_models_are_listed_as_they_were_described(service: Service) -> None:
    with service.http() as http:
        found = http.get("/models").json()
    assert found == {
        "models": [
            {
                "id": "llama-7b",
                "name": "Llama 7B",
                "description": "7B parameter Llama model",
                "format": "GGUF",
                "loaded": True,
            },
            {
                "id": "mistral-7b",
                "name": "Mistral 7B",
                "description": "Mistral 7B instruction model",
                "format": "safetensors",
                "loaded": True,
            },
        ]
    }


def test_a_specific_model_generates_with_every_parameter(service: Service) -> None:
    result = generate(
        service,
        prompt="Once upon a time",
        max_tokens=50,
        temperature=0.8,
        strategy="top_p",
        top_k=50,
        top_p=0.9,
        seed=42,
        model_id="mistral-7b",
    )
    assert 0 < result["num_generated"] == len(result["token_ids"]) <= 50
    assert max(result["token_ids"]) < 257  # the tiny model's tokens


def test_the_default_model_generates_where_none_is_named(service: Service) -> None:
    result = generate(service, prompt="Hello", max_tokens=10)
    named = generate(service, prompt="Hello", max_tokens=10, model_id="llama-7b")
    assert 0 < len(result["token_ids"]) <= 10
    assert 0 < len(named["token_ids"]) <= 10


def test_a_model_gives_the_same_tokens_by_its_id_and_its_alias_and_another_one_others(
    service: Service,
) -> None:
    fields = {"prompt": "Hello", "max_tokens": 10, "seed": 3, "raw": True, "ignore_eos": True}
    by_id = generate(service, model="mistral-7b", **fields)["token_ids"]
    assert generate(service, model_id="mistral", **fields)["token_ids"] == by_id
    assert generate(service, model="llama-7b", **fields)["token_ids"] != by_id


def test_a_model_that_does_not_exist_is_not_found(service: Service) -> None:
    with service.http() as http:
        answer = http.post(
            "/generate", json={"prompt": "Hello", "max_tokens": 10, "model_id": "does-not-exist"}
        )
    assert answer.status_code == 404
    assert answer.json()["error"] == "Model 'does-not-exist' not found"


def test_jobs_of_two_models_run_at_the_same_time(service: Service) -> None:
    long: dict[str, Any] = {"raw": True, "max_tokens": 400, "ignore_eos": True}
    ids = [service.submit(model=model, **long) for model in (BUNDLED, TINY) for _ in range(4)]
    results = [service.result(task_id) for task_id in ids]
    assert [result["num_generated"] for result in results] == [400] * 8


def test_with_room_for_one_model_each_is_loaded_when_its_job_comes(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_service(
        MODELS=json.dumps(models(tmp_path)), MODEL_CACHE_SIZE=1, KV_CACHE_GIB=0.2
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
