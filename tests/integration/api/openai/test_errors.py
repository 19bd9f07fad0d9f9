from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from api.openai.answers import OpenAIError
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, Start, StartLive
from tests.integration.api.openai.support import HELLO, MODEL, TextWorker, openai_client

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must be one, in OpenAI's shape."""
    assert response.status_code == status, response.text
    body = response.json()
    OpenAIError.model_validate(body)
    error: dict[str, Any] = body["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": []}, "messages", "messages must be a list of at least one message"),
        ({"messages": "hi"}, "messages", "messages must be a list"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role", "one of system"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a text or a list"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is this?"},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}},
                        ],
                    }
                ]
            },
            "messages[0].content[1]",
            "reads text only",
        ),
        ({"model": None}, "model", "model must be a valid string; got null."),
        ({"model": 7}, "model", "model must be a valid string; got 7."),
        ({"temperature": 3}, "temperature", "temperature must be from 0 to 2; got 3."),
        ({"top_p": 2}, "top_p", "top_p must be from 0 to 1; got 2."),
        ({"n": 0}, "n", "n must be from 1 to 128; got 0."),
        ({"n": 129}, "n", "n must be from 1 to 128; got 129."),
        ({"max_tokens": -1}, "max_tokens", "max_tokens must be from 1 to 2147483647; got -1."),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be from 1 to 2147483647; got 0."),
        (
            {"max_tokens": 1, "max_completion_tokens": 1},
            "max_tokens",
            "max_tokens is another name of max_completion_tokens",
        ),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs goes with logprobs: true"),
        (
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            "top_logprobs must be from 0 to 20; got 21.",
        ),
        ({"logit_bias": {"a": 1}}, "logit_bias", "logit_bias must have token ids"),
        ({"logit_bias": {"256": 1}}, "logit_bias", "from 0 to 255; got 256"),
        ({"stop": ["x"] * 17}, "stop", "stop must have at most 16 items"),
        ({"seed": "a"}, "seed", 'seed must be a valid integer; got "a".'),
        ({"stream": "yes"}, "stream", 'stream must be a valid boolean; got "yes".'),
        ({"stream_options": {"include_usage": True}}, "stream_options", "goes with stream: true"),
        (
            {"stream": True, "stream_options": {"x": 1}},
            "stream_options.x",
            "stream_options.x is not a known field.",
        ),
        ({"response_format": {"type": "xml"}}, "response_format", "whose type is one of text"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "nothing"}},
                }
            },
            "response_format",
            "response_format cannot be used",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "functions is not supported here: use tools"),
        ({"function_call": "auto"}, "function_call", "use tool_choice"),
        ({"modalities": ["audio"]}, "modalities", "the model writes text alone"),
        ({"tools": "f"}, "tools", "tools must be a list"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "must be 'function'"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"timeout": 121}, "timeout", "timeout must be at most TASK_TIME_LIMIT"),
        ({"metadata": {"a": 1}}, "metadata.a", "metadata.a must be a valid string"),
        ({"temprature": 1}, "temprature", "not a known field. Did you mean temperature?"),
        ({"prompt": "hi"}, "prompt", "prompt is not a known field."),
        ({"max_completion_tokens": 2000}, "max_completion_tokens", "max_completion_tokens is 2000"),
    ],
)
async def test_bad_input_is_refused_by_name(
    live_http: httpx.AsyncClient,
    worker: TextWorker,
    fields: dict[str, Any],
    param: str,
    message: str,
) -> None:
    body = {"model": MODEL, "messages": HELLO, **fields}
    error = error_of(await live_http.post(CHAT, json=body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]


async def test_a_prompt_that_does_not_fit_has_openais_code(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    messages = [{"role": "user", "content": "x" * 2000}]
    response = await live_http.post(CHAT, json={"model": MODEL, "messages": messages})
    error = error_of(response, 400)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "The body is not valid JSON"),
        (b"", "The body is empty"),
        (b"[]", "The body must be a JSON object"),
        (b"\xff", "The body is not valid JSON in UTF-8"),
        (b'{"messages": []}', "model is required."),
        (b'{"model": "baton-toy"}', "messages is required."),
    ],
)
async def test_a_body_that_is_no_request_is_refused(
    live_http: httpx.AsyncClient, content: bytes, message: str
) -> None:
    response = await live_http.post(CHAT, content=content, headers=JSON)
    assert message in error_of(response, 400)["message"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind", "code"),
    [
        ("GET", "/v1/models", {"X-API-Key": "?"}, 401, "authentication_error", "invalid_api_key"),
        ("POST", CHAT, {"X-API-Key": ""}, 401, "authentication_error", "invalid_api_key"),
        ("GET", "/v1/nothing", {}, 404, "not_found_error", "not_found"),
        ("GET", "/v1/models/gpt-9", {}, 404, "not_found_error", "model_not_found"),
        ("GET", CHAT, {}, 405, "invalid_request_error", "method_not_allowed"),
        ("DELETE", "/v1/models", {}, 405, "invalid_request_error", "method_not_allowed"),
    ],
)
async def test_what_the_framework_refuses_has_openais_shape_too(
    live_http: httpx.AsyncClient,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    kind: str,
    code: str,
) -> None:
    error = error_of(await live_http.request(method, path, headers=headers), status)
    assert (error["type"], error["code"]) == (kind, code)


@pytest.mark.parametrize("depth", [129, 100_000])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings"])
async def test_a_body_that_is_nested_too_deeply_says_so_with_the_limit(
    live_http: httpx.AsyncClient, path: str, depth: int
) -> None:
    content = b'{"messages":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    error = error_of(await live_http.post(path, content=content, headers=JSON), 400)
    assert error["message"] == (
        "The body is nested too deeply: at most 128 lists and objects within each other."
    )


async def test_a_body_that_is_nested_as_deeply_as_may_be_is_read(
    live_http: httpx.AsyncClient,
) -> None:
    content = b'{"messages":' + b"[" * 127 + b"]" * 127 + b"}"
    error = error_of(await live_http.post(CHAT, content=content, headers=JSON), 400)
    assert error["message"] == "model is required."


async def test_a_body_over_the_limit_is_413(live_http: httpx.AsyncClient) -> None:
    content = json.dumps({"model": MODEL, "messages": "x" * 2**20}).encode()
    error = error_of(await live_http.post(CHAT, content=content, headers=JSON), 413)
    assert error["code"] == "payload_too_large"


async def test_over_the_rate_is_429_with_what_is_left(
    start_live: StartLive, make_settings: Callable[..., Settings], worker: TextWorker
) -> None:
    live = start_live(make_settings(rate_limit_per_minute=60, rate_limit_burst=1))
    body = {"model": MODEL, "messages": HELLO}
    async with live.client() as http:
        asking = asyncio.create_task(http.post(CHAT, json=body))
        await worker.answer("hi")
        assert (await asking).headers["x-ratelimit-remaining-requests"] == "0"
        response = await http.post(CHAT, json=body)
    error = error_of(response, 429)
    assert error["type"] == "rate_limit_error"
    assert error["code"] == "rate_limit_exceeded"
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_what_nobody_foresaw_is_500_and_says_nothing(
    start_app: Start, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("api.openai.job_requests.by_strategy", fail)
    http = await start_app(settings, raise_app_exceptions=False)
    error = error_of(await http.post(CHAT, json={"model": MODEL, "messages": HELLO}), 500)
    assert error["type"] == "server_error"
    assert error["code"] == "internal_error"
    assert "secret" not in error["message"]


async def test_the_native_endpoints_keep_their_own_shape(live_http: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/v1x", "/status/none"):
        assert (await live_http.get(path)).json()["error_type"].endswith("NotFoundError")


@pytest.mark.parametrize(
    ("error_type", "status", "kind", "code"),
    [
        ("InvalidRequestError", 400, "invalid_request_error", "invalid_request"),
        ("ContextLengthError", 400, "invalid_request_error", "context_length_exceeded"),
        ("EngineError", 500, "server_error", "task_failed"),
        ("WorkerLostError", 500, "server_error", "task_failed"),
        ("ModelLoadError", 502, "server_error", "engine_unavailable"),
    ],
)
async def test_a_job_that_fails_is_an_error_by_its_kind(
    live_http: httpx.AsyncClient,
    worker: TextWorker,
    error_type: str,
    status: int,
    kind: str,
    code: str,
) -> None:
    asking = asyncio.create_task(live_http.post(CHAT, json={"model": MODEL, "messages": HELLO}))
    worker.fail(await worker.next(), error_type, "It did not work.")
    error = error_of(await asking, status)
    assert error["message"] == "It did not work."
    assert (error["type"], error["code"]) == (kind, code)


async def test_an_error_that_a_worker_finds_names_its_field_as_the_endpoint_calls_it(
    live_http: httpx.AsyncClient, worker: TextWorker, live: LiveGateway
) -> None:
    chat = {"model": MODEL, "messages": HELLO}
    asked = [
        (CHAT, chat, "messages", "messages", "The messages are too long."),
        (CHAT, chat, "prompt", "messages", "There are 9 in the prompt."),
        ("/v1/completions", {"model": MODEL, "prompt": "a"}, "prompt", "prompt", "No prompt."),
        ("/v1/responses", {"model": MODEL, "input": "a"}, "messages", "input", "Bad messages."),
        (CHAT, chat | {"stream": True}, "messages", "messages", "The messages are too long."),
        ("/v1/responses", {"model": MODEL, "input": "a", "stream": True}, "prompt", "input", "No."),
    ]
    for path, body, param, name, message in asked:
        asking = asyncio.create_task(live_http.post(path, json=body))
        worker.fail(await worker.next(), "InvalidRequestError", message, param)
        assert error_of(await asking, 400)["param"] == name


async def test_the_sdk_raises_its_own_classes(
    openai: AsyncOpenAI,
    live: LiveGateway,
    start_live: StartLive,
    make_settings: Callable[..., Settings],
) -> None:
    with pytest.raises(sdk.BadRequestError, match="temperature must be") as bad:
        await openai.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(sdk.NotFoundError, match="Model 'gpt-9' not found") as missing:
        await openai.chat.completions.create(model="gpt-9", messages=HELLO)
    assert missing.value.code == "model_not_found"
    async with openai_client(live.url, "wrong") as stranger:
        with pytest.raises(sdk.AuthenticationError):
            await stranger.models.list()
    slow = start_live(make_settings(rate_limit_per_minute=1, rate_limit_burst=1))
    async with openai_client(slow.url) as client:
        with pytest.raises(sdk.RateLimitError):
            await list_models_often(client)


async def list_models_often(client: AsyncOpenAI) -> None:
    for _ in range(30):
        await client.models.list()


async def test_a_failed_task_is_not_tried_again_by_the_sdk(
    live: LiveGateway, worker: TextWorker
) -> None:
    async with openai_client(live.url, max_retries=2) as client:
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=HELLO))
        worker.fail(await worker.next(), "EngineError", "It did not work.")
        with pytest.raises(sdk.InternalServerError, match="It did not work"):
            await asking
