"""The real service in front of a server that plays Ollama's wire format (`tests/ollama_server.py`:
no Ollama was run)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.e2e.service import KEY, ROOT, Service
from tests.ollama_server import Model, OllamaServer, Turn, answer

StartService = Callable[..., Service]
STORY: dict[str, Any] = {"prompt": "A story", "max_tokens": 30, "seed": 5, "raw": True}
MESSAGES: list[Any] = [{"role": "user", "content": "A story"}]
TIMEOUT_S = 30


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    """It has two models that generate, and one that does not."""
    server = OllamaServer(
        models={
            "llama2:latest": Model(),
            "mistral:latest": Model(),
            "nomic-embed-text:latest": Model(capabilities=("embedding",)),
        }
    )
    yield server
    server.close()


@pytest.fixture
def front(ollama: OllamaServer, start_service: StartService) -> Service:
    """A service with the settings of the guide, and the address of the server."""
    front = start_service(**settings_for(ollama))
    front.wait_until_ready()
    return front


def settings_for(ollama: OllamaServer) -> dict[str, Any]:
    return {
        "MODEL_BACKEND": "ollama",
        "OLLAMA_MODEL": "llama2",
        "OLLAMA_BASE_URL": ollama.url,
        "UPSTREAM_RETRY_S": 2,
    }


def health_when(service: Service, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until the health is so; the test's own time limit ends it."""
    service.wait_for("Baton answers at")
    with service.http() as http:
        while True:
            health: dict[str, Any] = http.get("/health").json()
            if is_so(health):
                return health


def offers(*models: str) -> Callable[[dict[str, Any]], bool]:
    return lambda health: tuple(health["available_models"]) == models


def openai(service: Service) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0)


def kill_worker(service: Service) -> None:
    [worker] = service.pids("worker.main")
    os.kill(worker, signal.SIGKILL)


def gated(ollama: OllamaServer, after: int) -> threading.Event:
    """Hold the next answer back after some words."""
    gate = threading.Event()
    ollama.turns.append(Turn(after=after, gate=gate))
    return gate


def test_health_names_the_model_the_backend_and_the_models_that_the_server_has(
    front: Service,
) -> None:
    is_offered = offers("llama2", "mistral")
    # A model that was found is offered before it is made ready.
    health = health_when(front, lambda told: is_offered(told) and told["status"] == "healthy")
    assert health["model_loaded"]
    assert (health["backend"], health["model"]) == ("ollama", "llama2")


def test_a_prompt_is_submitted_and_polled_for_as_the_guide_shows(front: Service) -> None:
    with front.http() as http:
        body = {"prompt": "A joke", "max_tokens": 256, "temperature": 0.7, "user_id": "me"}
        task_id = http.post("/generate", json=body).json()["task_id"]
        list(front.events(task_id))
        result = http.get(f"/result/{task_id}").json()
    assert result["status"] == "completed"
    assert result["result"]
    metrics = result["metrics"]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (5, 40)
    assert (metrics["prefill_time"], metrics["decode_time"]) == (0.343, 4.536)


def test_the_client_of_the_guide_runs_against_it(front: Service) -> None:
    environment = {"PATH": os.environ["PATH"], "BATON_URL": front.url, "PYTHONPATH": str(ROOT)}
    code = (
        "from client_example import LLMClient\n"
        f"client = LLMClient(base_url={front.url!r}, api_key={KEY!r})\n"
        "print(client.generate(prompt='A haiku', max_tokens=100, temperature=0.8, wait=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "completed" in done.stdout) == (0, True), done.stderr


def test_a_raw_prompt_has_the_text_that_the_server_gives_for_the_seed(
    front: Service, ollama: OllamaServer
) -> None:
    assert front.result(front.submit(**STORY))["result"] == answer(5, "A story", 30)
    path, body = ollama.requests.get(timeout=TIMEOUT_S)
    assert (path, body["raw"], body["options"]["num_predict"]) == ("/api/generate", True, 30)


def test_a_chat_streams_and_has_the_counts_of_the_server(
    front: Service, ollama: OllamaServer
) -> None:
    chunks = list(
        openai(front).chat.completions.create(
            model="llama2",
            messages=MESSAGES,
            seed=5,
            max_tokens=30,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer(5, json.dumps(MESSAGES), 30)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 30
    assert ollama.requests.get(timeout=TIMEOUT_S)[0] == "/api/chat"


def test_a_request_may_name_any_model_that_the_server_has(
    front: Service, ollama: OllamaServer
) -> None:
    health_when(front, offers("llama2", "mistral"))
    client = openai(front)
    assert [model.id for model in client.models.list()] == ["llama2", "mistral"]
    for name in ("mistral", "mistral:latest"):
        said = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=5)
        assert said.model == "mistral"
        assert ollama.requests.get(timeout=TIMEOUT_S)[1]["model"] == "mistral"
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model="nomic-embed-text", messages=MESSAGES)


def test_models_come_and_go_with_those_of_the_server(front: Service, ollama: OllamaServer) -> None:
    health_when(front, offers("llama2", "mistral"))
    ollama.models["phi3:mini"] = Model()
    health_when(front, offers("llama2", "mistral", "phi3:mini"))
    assert front.result(front.submit(**STORY, model="phi3:mini"))["status"] == "completed"
    del ollama.models["mistral:latest"]
    health_when(front, offers("llama2", "phi3:mini"))
    with front.http() as http:
        assert http.post("/generate", json={**STORY, "model": "mistral"}).status_code == 404
    assert health_when(front, lambda _: True)["status"] == "healthy"


def test_a_job_whose_model_was_removed_fails_and_says_how_to_get_it(
    front: Service, ollama: OllamaServer
) -> None:
    health_when(front, offers("llama2", "mistral"))
    gate = gated(ollama, 3)
    running = [front.submit(**STORY, model="mistral") for _ in range(9)]
    ollama.requests.get(timeout=TIMEOUT_S)
    del ollama.models["mistral:latest"]
    gate.set()
    ended = [front.result(task_id) for task_id in running]
    failed = [each for each in ended if each["status"] == "error"]
    assert failed
    assert all("`ollama pull mistral`" in each["error_message"] for each in failed)


def test_a_model_that_was_never_pulled_fails_its_jobs_until_it_is(
    ollama: OllamaServer, start_service: StartService
) -> None:
    del ollama.models["llama2:latest"]
    front = start_service(**settings_for(ollama))
    health = health_when(front, lambda health: "ollama pull" in health.get("reason", ""))
    assert (health["state"], health["model_loaded"]) == ("error", False)
    assert "`ollama pull llama2`" in health["reason"]
    failed = front.result(front.submit(**STORY))
    assert (failed["status"], failed["error_type"]) == ("error", "ModelLoadError")
    assert "`ollama pull llama2`" in failed["error_message"]
    ollama.models["llama2:latest"] = Model()
    health_when(front, lambda health: health["status"] == "healthy")
    assert front.result(front.submit(**STORY))["status"] == "completed"


def test_what_ollama_cannot_honour_is_400_and_names_the_parameter(
    front: Service, ollama: OllamaServer
) -> None:
    client = openai(front)
    for name, fields in {
        "logprobs": {"logprobs": True},
        "logit_bias": {"logit_bias": {"5": 1}},
        "min_tokens": {"extra_body": {"min_tokens": 3}},
    }.items():
        with pytest.raises(BadRequestError) as caught:
            client.chat.completions.create(
                model="llama2",
                messages=MESSAGES,
                **fields,  # type: ignore[arg-type]
            )
        assert caught.value.param == name
    assert ollama.num_requests == 0


def test_a_prompt_that_does_not_fit_is_400_and_is_not_cut(
    front: Service, ollama: OllamaServer
) -> None:
    long: list[Any] = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(BadRequestError) as caught:
        openai(front).chat.completions.create(model="llama2", messages=long, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    _, body = ollama.requests.get(timeout=TIMEOUT_S)
    assert (body["truncate"], body["shift"]) == (False, False)


def test_a_cancel_closes_the_request(front: Service, ollama: OllamaServer) -> None:
    gate = gated(ollama, 10)
    task_id = front.submit(**STORY)
    assert next(data["token"] for _, data in front.events(task_id) if data.get("token"))
    with front.http() as http:
        http.post(f"/tasks/{task_id}/cancel")
    assert ollama.left.get(timeout=TIMEOUT_S) == 0
    gate.set()
    assert front.result(task_id)["status"] == "cancelled"


def test_a_job_over_its_time_is_closed_there_too(front: Service, ollama: OllamaServer) -> None:
    ollama.turns.append(Turn(ends="silence", after=4))
    expired = front.result(front.submit(**STORY, timeout=1))
    assert expired["error_type"] == "DeadlineExceededError"
    assert ollama.left.get(timeout=TIMEOUT_S) == 0


def test_a_stream_goes_on_without_a_seam_when_the_worker_is_killed(
    front: Service, ollama: OllamaServer
) -> None:
    gate = gated(ollama, 10)
    task_id = front.submit(**STORY)
    frames = front.events(task_id)
    text = next(data["token"] for _, data in frames if data.get("token"))
    kill_worker(front)
    rest = [data for _, data in frames]
    gate.set()
    assert text + "".join(data.get("token", "") for data in rest) == answer(5, "A story", 30)
    assert not any(data.get("restarted") for data in rest)
    assert rest[-1]["metrics"]["attempts"] == 2


def test_a_stream_restarts_where_the_server_says_something_else_after_the_kill(
    front: Service, ollama: OllamaServer
) -> None:
    gate = gated(ollama, 10)
    task_id = front.submit(**STORY)
    frames = front.events(task_id)
    assert next(data["token"] for _, data in frames if data.get("token"))
    ollama.salt = "another model"
    kill_worker(front)
    rest = [data for _, data in frames]
    gate.set()
    assert any(data.get("restarted") for data in rest)
    assert front.result(task_id)["result"] == answer(5, "A story", 30, "another model")


def test_permits_of_a_model_that_was_found_are_taken_again_after_redis_was_away(
    front: Service,
) -> None:
    health_when(front, offers("llama2", "mistral"))
    [redis] = front.pids("redis-server")
    os.kill(redis, signal.SIGKILL)
    front.wait_for("Redis is back; permits are taken again")
    health_when(front, lambda health: health["status"] == "healthy")
    assert front.result(front.submit(**STORY, model="mistral"))["status"] == "completed"


def test_jobs_of_a_model_that_was_found_survive_the_worker(
    front: Service, ollama: OllamaServer
) -> None:
    health_when(front, offers("llama2", "mistral"))
    gate = gated(ollama, 10)
    task_id = front.submit(**STORY, model="mistral")
    frames = front.events(task_id)
    text = next(data["token"] for _, data in frames if data.get("token"))
    kill_worker(front)
    rest = [data for _, data in frames]
    gate.set()
    assert text + "".join(data.get("token", "") for data in rest) == answer(5, "A story", 30)
    with front.http() as http:
        assert http.post("/generate", json={**STORY, "model": "mistral"}).status_code == 202
