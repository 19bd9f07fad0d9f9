"""A scorer from ratings to answers: the command line trains it, the service scores with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from models.scorer_recipe.ratings import SKILLS, ratings
from tests.e2e.service import KEY, ROOT, Service

REQUEST = Path(__file__).parent / "examples" / "infer_request.json"
MODELS = ["gpt-3.5-turbo", "gpt-4", "claude-2"]
LARGE = [f"{n} dogs walked to the sea. " * 20 for n in range(400)]


def scorer(folder: Path, command: str, *flags: str) -> str:
    """What `baton scorer` prints, in a folder of its own and without a service."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "scorer", command, *flags],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def train(folder: Path) -> None:
    """Ratings of the three models, whose best one depends on the prompt's first word."""
    rows = [
        {"prompt": f"{word} {n}", "model": model, "score": 0.2 + 0.3 * ((place + shift) % 3)}
        for shift, word in enumerate(("What is", "Explain", "Tell me of"))
        for n in range(15)
        for place, model in enumerate(MODELS)
    ]
    (folder / "ratings.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scorer(folder, "train", "--data", "ratings.jsonl", "--name", "model_name")


def infer(service: Service, body: dict[str, Any]) -> Any:
    with service.http() as http:
        response = http.post("/infer", json=body)
    assert response.status_code == 200, response.text
    return response.json()["scores"]


def test_the_request_of_the_users_is_answered_as_the_command_line_does(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    train(tmp_path)
    service = start_service(SCORERS_DIR=tmp_path / "scorers")
    service.wait_until_ready()
    body = json.loads(REQUEST.read_text())
    found = infer(service, body)
    assert list(found) == MODELS
    assert all(len(row) == 2 and all(0 <= score <= 1 for score in row) for row in found.values())
    printed = scorer(tmp_path, "score", "--request", str(REQUEST))
    for model, row in json.loads(printed)["scores"].items():
        assert found[model] == pytest.approx(row, abs=1e-5)

    # The one that ships, on prompts that it has never seen.
    rows = list(ratings(200, seed=77))
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    example = {"model": "dense_network/example", "models_to_score": list(SKILLS)}
    scores = infer(service, {**example, "prompts": prompts})
    best = [max(SKILLS, key=lambda model: scores[model][i]) for i in range(len(prompts))]
    rated = {(row["prompt"], row["model"]): row["score"] for row in rows}
    right = [
        rated[prompt, model] == max(rated[prompt, other] for other in SKILLS)
        for prompt, model in zip(prompts, best, strict=True)
    ]
    assert sum(right) / len(right) >= 0.9


def test_openais_client_gets_the_model_that_the_scorer_picks(
    start_service: Callable[..., Service],
) -> None:
    models = [
        {"id": "first", "source": "baton-toy", "aliases": ["storyteller"]},
        {"id": "second", "source": "baton-toy", "aliases": ["coder-small"], "cost": 2},
    ]
    service = start_service(MODELS=json.dumps(models), KV_CACHE_GIB=0.2)
    service.wait_for("Model second is ready on")
    router = {"router": "dense_network/example"}

    def picked(prompt: str, **more: float) -> str:
        answer = client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=5,
            extra_body=router | more,
        )
        assert (answer.model_extra or {})["routing"]["model"] == answer.model
        return answer.model

    with OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as client:
        assert picked("Tell me a story about a sad rabbit") == "first"
        assert picked("Write a Python function to sort a list") == "second"
        assert picked("Write a Python function to sort a list", cost_weight=1) == "first"


def test_a_task_survives_the_death_of_its_worker(start_service: Callable[..., Service]) -> None:
    service = start_service()
    service.wait_until_ready()
    body = {
        "model": "dense_network/example",
        "models_to_score": list(SKILLS),
        "prompts": LARGE,
        "batch_size": 8,
    }
    few = infer(service, body | {"prompts": LARGE[:3]})
    with service.http() as http:
        task = http.post("/infer", json=body, headers={"Prefer": "respond-async"}).json()
        while http.get(task["status_url"]).json()["status"] != "processing":
            assert service.process.poll() is None
        [worker] = service.pids("worker.main")
        os.kill(worker, signal.SIGKILL)
        while (answer := http.get(task["result_url"])).status_code == 202:
            assert service.process.poll() is None
        result = answer.json()
    assert result["metrics"]["attempts"] == 2
    for model in SKILLS:
        assert len(result["scores"][model]) == len(LARGE)
        assert result["scores"][model][:3] == pytest.approx(few[model], abs=1e-5)
