"""Every error of `002_a975337e2d09907a.txt` and `004_d314d6d6ae5d2d3d.txt`, caused for real.

Not here, because nothing that a client sends can cause them: 500, and the 503 without Redis or a
worker. They are in `tests/integration/api/openai`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.printed import assert_has_the_fields_of, printed
from tests.e2e.service import Service

REQUEST_ID = "5c1f6a0e-0f6e-4a3c-9a57-5d0c0a5d8c11"
MESSAGES = [{"role": "user", "content": "Hello, how are you?"}]
LONG: dict[str, Any] = {"max_tokens": 1500, "ignore_eos": True}
CALLS = [
    pytest.param(path, prompt, stream, id=f"{path.rpartition('/v1/')[2]}{' streamed' * stream}")
    for path, prompt in (
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "Once upon a time"}),
    )
    for stream in (False, True)
]
on_every_call = pytest.mark.parametrize(("path", "prompt", "stream"), CALLS)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Room for one job in the queue, a model that is not there, and one that no worker serves."""
    models = [
        {"id": "llama3", "source": "baton-toy"},
        {"id": "broken", "path": "nowhere"},
        {"id": "elsewhere", "path": "nowhere"},
    ]
    service = Service(
        tmp_path_factory.mktemp("errors"),
        MODELS=json.dumps(models),
        WORKER_MODELS="llama3,broken",
        QUEUE_CAPACITY=1,
        KV_CACHE_GIB=0.2,
        API_KEYS="test-key-123,demo-key-456",
        RATE_LIMIT_PER_MINUTE=60,
        RATE_LIMIT_BURST=50,
    )
    service.start()
    try:
        service.wait_until_ready()
        service.wait_for("Model broken: ")
        yield service
    finally:
        service.stop()


def error_of(response: httpx.Response, status: int, kind: str, code: str) -> dict[str, Any]:
    """The error, which must be this one in the documents' shape, with the request's id."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == REQUEST_ID
    return assert_is_error(response.json(), kind, code)


def assert_is_error(body: dict[str, Any], kind: str, code: str) -> dict[str, Any]:
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert_has_the_fields_of(body, printed("openai/error_response.json"))
    assert_has_the_fields_of(body, printed("openai/timeout_error.json"))
    assert error.keys() == {"message", "type", "param", "code", "request_id"}
    assert error["request_id"] == REQUEST_ID
    assert (error["type"], error["code"]) == (kind, code)
    assert error["message"]
    return error


def ask(service: Service, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
    with service.http() as http:
        sent = {"X-Request-ID": REQUEST_ID, **(headers or {})}
        return http.post(path, json={"model": "llama3", **body}, headers=sent)


@on_every_call
def test_an_invalid_parameter_is_400(
    service: Service, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    body = {**prompt, "stream": stream, "temperature": 3}
    error = error_of(ask(service, path, **body), 400, "invalid_request_error", "invalid_request")
    assert error["param"] == "temperature"


@on_every_call
def test_an_invalid_model_parameter_is_the_printed_400(
    service: Service, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    body = {**prompt, "stream": stream, "model": 7}
    error = error_of(ask(service, path, **body), 400, "invalid_request_error", "invalid_request")
    assert error["param"] == "model"
    assert "model" in error["message"]


@on_every_call
@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_missing_or_wrong_key_is_401(
    service: Service, path: str, prompt: dict[str, Any], stream: bool, key: str
) -> None:
    response = ask(service, path, {"X-API-Key": key}, **prompt, stream=stream)
    error_of(response, 401, "authentication_error", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@on_every_call
def test_an_unknown_model_is_404(
    service: Service, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    response = ask(service, path, **prompt, stream=stream, model="gpt-4")
    error = error_of(response, 404, "not_found_error", "model_not_found")
    assert error["message"] == "Model 'gpt-4' not found"


@on_every_call
def test_a_model_that_no_worker_can_load_is_502(
    service: Service, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    response = ask(service, path, **prompt, stream=stream, model="broken")
    error_of(response, 502, "server_error", "engine_unavailable")


@pytest.mark.parametrize(("path", "prompt"), [CALLS[0].values[:2], CALLS[2].values[:2]])
def test_a_generation_over_its_time_is_504(
    service: Service, path: str, prompt: dict[str, Any]
) -> None:
    response = ask(service, path, **prompt, **LONG, timeout=0.1)
    error_of(response, 504, "timeout_error", "engine_timeout")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("path", "prompt"), [CALLS[0].values[:2], CALLS[2].values[:2]])
def test_a_stream_that_has_begun_ends_with_the_same_error_over_its_time(
    service: Service, path: str, prompt: dict[str, Any]
) -> None:
    response = ask(service, path, **prompt, **LONG, timeout=0.1, stream=True)
    assert response.status_code == 200
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    assert_is_error(json.loads(last.removeprefix("data: ")), "timeout_error", "engine_timeout")


@pytest.fixture
def full(service: Service) -> Iterator[Service]:
    """The service while its queue is full."""
    waiting = service.submit(model="elsewhere")
    yield service
    with service.http() as http:
        http.delete(f"/tasks/{waiting}")


@on_every_call
def test_a_full_queue_is_503(
    full: Service, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    response = ask(full, path, **prompt, stream=stream)
    error_of(response, 503, "server_error", "queue_full")
    assert int(response.headers["retry-after"]) >= 1


def test_over_the_rate_every_call_is_429(service: Service) -> None:
    other_key = {"X-API-Key": "demo-key-456"}
    body = {"model": "llama3", "prompt": "a", "max_tokens": 1}
    with service.http() as http:
        while http.post("/v1/completions", json=body, headers=other_key).status_code != 429:
            pass
    for path, prompt, stream in (call.values for call in CALLS):
        assert isinstance(prompt, dict)
        response = ask(service, str(path), other_key, **prompt, stream=stream)
        error_of(response, 429, "rate_limit_error", "rate_limit_exceeded")
        assert int(response.headers["retry-after"]) >= 1
