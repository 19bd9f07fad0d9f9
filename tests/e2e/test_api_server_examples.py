"""Every request and answer of `002_a975337e2d09907a.txt`, as its diagrams draw them.

Its errors are in `test_openai_errors.py`, middleware, rates and CORS in `tests/integration/api`.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.e2e.printed import assert_are_counts
from tests.e2e.service import Service

ENDPOINTS = ["/health", "/health/live", "/health/ready", "/v1/models", "/metrics"]
ENDPOINTS += ["/v1/engine/stats"]
COMPLETION: dict[str, Any] = {
    "model": "llada-8b",
    "prompt": "Once upon a time",
    "max_tokens": 100,
    "temperature": 0.7,
    "stream": False,
}
CHAT: dict[str, Any] = {
    "model": "llada-8b",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 100,
}


def post(service: Service, path: str, body: dict[str, Any]) -> Any:
    with service.http() as http:
        response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def assert_is_usage(usage: dict[str, Any]) -> None:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert_are_counts({name: usage[name] for name in names})
    assert 0 < usage["completion_tokens"] <= 100
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_that_is_read_answers(llama3: Service, path: str) -> None:
    with llama3.http() as http:
        assert http.get(path).status_code == 200


def test_health_has_every_drawn_field(llama3: Service) -> None:
    answer = httpx.get(f"{llama3.url}/health", trust_env=False).json()
    assert (answer["status"], answer["state"]) == ("healthy", "ready")
    memory = answer["gpu_memory"]  # of a machine without a GPU it is null
    assert memory is None or memory.keys() == {"used", "total"}
    assert answer["queue"].keys() == {"size", "capacity"}
    assert_are_counts(answer["queue"])


def test_the_drawn_completion_gets_the_drawn_answer(llama3: Service) -> None:
    answer = post(llama3, "/v1/completions", COMPLETION)
    assert answer["id"].startswith("cmpl-")
    [choice] = answer["choices"]
    assert choice["text"]
    assert_is_usage(answer["usage"])


def test_the_drawn_chat_gets_the_drawn_answer(llama3: Service) -> None:
    answer = post(llama3, "/v1/chat/completions", CHAT)
    assert answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert_is_usage(answer["usage"])


def test_a_streamed_completion_is_lines_of_data_with_text_and_then_done(llama3: Service) -> None:
    body = COMPLETION | {"stream": True, "seed": 3}
    with llama3.http() as http:
        response = http.post("/v1/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    # Deltas, as OpenAI's clients add them up, and not the text so far: decision 0019.
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == post(llama3, "/v1/completions", body | {"stream": False})["choices"][0]["text"]


def test_the_statistics_have_the_drawn_state_of_the_server(llama3: Service) -> None:
    post(llama3, "/v1/completions", COMPLETION | {"max_tokens": 1})
    with llama3.http() as http:
        # The gateway reads the fleet's counters once a second.
        while not (answer := http.get("/v1/engine/stats").json())["request_count"]:
            assert llama3.process.poll() is None
    assert answer["is_ready"] is True
    assert answer["uptime_seconds"] > 0
    assert_are_counts({name: answer[name] for name in ("request_count", "active_requests")})


@pytest.mark.parametrize("sent", [None, "0b0f7a1e-6d0b-4d0c-9d63-2f1f9be1d4a7"])
def test_an_answer_has_its_requests_id(llama3: Service, sent: str | None) -> None:
    headers = {} if sent is None else {"X-Request-ID": sent}
    with llama3.http() as http:
        found = http.post("/v1/completions", json=COMPLETION, headers=headers)
    assert len(found.headers["x-request-id"]) >= 32
    assert sent is None or found.headers["x-request-id"] == sent


def test_an_answer_has_the_drawn_security_headers(llama3: Service) -> None:
    with llama3.http() as http:
        headers = http.post("/v1/completions", json=COMPLETION).headers
        # As a proxy says that ends TLS; one on this host is trusted.
        secure = http.get("/health", headers={"X-Forwarded-Proto": "https"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-xss-protection"].startswith("1")
    assert "max-age=" in secure["strict-transport-security"]


def test_the_request_is_logged_with_its_id_status_and_time(llama3: Service) -> None:
    request_id = str(uuid.uuid4())
    with llama3.http() as http:
        http.post("/v1/completions", json=COMPLETION, headers={"X-Request-ID": request_id})
    log = llama3.log_dir / "app.log"
    while not (lines := [line for line in log.read_text().splitlines() if request_id in line]):
        assert llama3.process.poll() is None
    access = next(line for line in map(json.loads, lines) if "POST /v1/completions" in str(line))
    assert access["status"] == 200
    assert access["ms"] >= 0
