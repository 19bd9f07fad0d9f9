from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from common import keys
from common.connection import SyncRedis

LIMIT = 1024 * 1024
JSON = {"Content-Type": "application/json"}


async def assert_refused(
    response: httpx.Response, *parts: str, status: int = 400, param: str | None = None
) -> None:
    body = response.json()
    assert response.status_code == body["status_code"] == status
    assert set(body) - {"param"} == {"error", "status_code", "error_type", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    assert body.get("param") == param
    for part in parts:
        assert part in body["error"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_tokens", "512", 'max_tokens must be a valid integer; got "512".'),
        ("max_tokens", 1.5, "max_tokens must be a valid integer; got 1.5."),
        ("max_tokens", True, "max_tokens must be a valid integer; got true."),
        ("max_tokens", 0, "max_tokens must be from 1 to 2147483647; got 0."),
        ("max_tokens", -1, "max_tokens must be from 1 to 2147483647; got -1."),
        ("temperature", 2.5, "temperature must be from 0 to 2; got 2.5."),
        ("temperature", -0.1, "temperature must be from 0 to 2; got -0.1."),
        ("temperature", "hot", 'temperature must be a valid number; got "hot".'),
        ("temperature", True, "temperature must be a valid number; got true."),
        ("top_p", 1.1, "top_p must be from 0 to 1; got 1.1."),
        ("top_k", -1, "top_k must be from 0 to 2147483647; got -1."),
        ("min_p", 2, "min_p must be from 0 to 1; got 2."),
        ("seed", -1, "seed must be from 0 to 9223372036854775807; got -1."),
        ("seed", 2**63, f"seed must be from 0 to {2**63 - 1}; got {2**63}."),
        ("stop", [""], 'stop[0] must not be empty; got "".'),
        ("stop", ["x"] * 17, "stop must have at most 16 items"),
        ("stop", "x" * 257, "stop[0] must have at most 256 characters"),
        ("stop", 5, "stop must be a valid list; got 5."),
        ("presence_penalty", 3, "presence_penalty must be from -2 to 2; got 3."),
        ("frequency_penalty", -3, "frequency_penalty must be from -2 to 2; got -3."),
        ("repetition_penalty", 0, "repetition_penalty must be from 0.1 to 2; got 0."),
        ("strategy", "beam", "strategy must be 'greedy', 'top_k' or 'top_p'; got \"beam\"."),
        ("priority", "urgent", "priority must be 'high', 'normal' or 'low'; got \"urgent\"."),
        ("user_id", "x" * 257, "user_id must have at most 256 characters"),
        ("user_id", "a\0b", "user_id must not hold a NUL character"),
        ("timeout", 0, "timeout must be above 0; got 0."),
        ("timeout", 121, "timeout must be at most TASK_TIME_LIMIT, 120 seconds; got 121."),
        ("min_tokens", -1, "min_tokens must be at least 0; got -1."),
        ("metadata", {"a": 1}, "metadata.a must be a valid string; got 1."),
        ("metadata", {str(i): "" for i in range(17)}, "metadata must have at most 16 items"),
        ("logprobs", 21, "logprobs must be from 0 to 20; got 21."),
        ("logprobs", -1, "logprobs must be from 0 to 20; got -1."),
        ("logprobs", True, "logprobs must be a valid integer; got true."),
        ("stop_token_ids", [1, -2], "stop_token_ids[1] must be greater than or equal to 0; got -2"),
        ("stop_token_ids", ["a"], 'stop_token_ids[0] must be a valid integer; got "a".'),
        ("stop_token_ids", [1] * 1025, "stop_token_ids must have at most 1024 items"),
        ("logit_bias", [1], "logit_bias must be a valid dictionary; got [1]."),
        ("logit_bias", {"7": 101}, "logit_bias[7] must be less than or equal to 100; got 101."),
        ("logit_bias", {"7": "1"}, 'logit_bias[7] must be a valid number; got "1".'),
        ("logit_bias", {"dog": 1}, "logit_bias must have token ids as its names"),
        ("logit_bias", {"07": 1}, "logit_bias must have token ids as its names"),
        ("logit_bias", {"9" * 5000: 1}, "logit_bias must have token ids as its names"),
        (
            "logit_bias",
            {str(i): 1 for i in range(50_000)},
            "logit_bias must have at most 1024 tokens; got 50000",
        ),
        ("raw", "yes", 'raw must be a valid boolean; got "yes".'),
        ("model", "gpt-9", "Model 'gpt-9' not found"),
        ("temprature", 1, "temprature is not a known field. Did you mean temperature?"),
        ("prompt", "", 'prompt must not be empty; got "".'),
        ("prompt", 5, "prompt must be a valid string; got 5."),
    ],
)
async def test_a_bad_field_is_named_with_what_was_expected_and_what_came(
    http: httpx.AsyncClient, client: SyncRedis, field: str, value: Any, message: str
) -> None:
    response = await http.post("/generate", json={"prompt": "hello", field: value})
    assert message in response.json()["error"]
    assert response.json()["param"].startswith(field)
    assert response.status_code == (404 if field == "model" else 400)
    assert client.keys("baton:job:*") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Exactly one of prompt and messages is expected; got neither."),
        (
            {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
            "Exactly one of prompt and messages is expected; got both.",
        ),
        ({"prompt": " \n"}, "prompt must not be empty; got nothing but white space."),
        ({"prompt": "a", "min_tokens": 5, "max_tokens": 3}, "got 5 and 3."),
        ({"messages": [{"role": "user", "content": "b"}], "raw": True}, "raw goes with prompt"),
        ({"prompt": "a", "model": "x", "model_id": "y"}, "two names of one field"),
        ({f"field{i}": 0 for i in range(100)}, "at most 64 fields; got 100"),
        (["hello"], 'The body must be a JSON object; got ["hello"].'),
        ("hello", "The body must be a JSON object"),
        (None, "The body is empty: expected a JSON object"),
    ],
)
async def test_a_body_that_does_not_hold_together_is_400(
    http: httpx.AsyncClient, body: Any, message: str
) -> None:
    await assert_refused(await http.post("/generate", json=body), message)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "user", "content": ["hi"]}, "messages[0].content"),
        ({"role": "user", "content": "hi", "name": "x"}, "messages[0].name"),
    ],
)
async def test_a_bad_message_is_named_by_its_place(
    http: httpx.AsyncClient, message: dict[str, Any], param: str
) -> None:
    response = await http.post("/generate", json={"messages": [message]})
    await assert_refused(response, param, param=param)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "a",}',
        b"\xff\xfe",
        b'{"prompt": "\xe9"}',
        b"[" * 100_000,
        b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "max_tokens": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "user_id": "\\ud800"}',
        b'{"prompt": "a", "metadata": {"\\ud800": "b"}}',
        b'{"prompt": "a", "\\ud800": 1}',
        b'{"messages": [{"role": "user", "content": "\\udfff"}]}',
    ],
)
async def test_what_is_no_json_or_no_text_is_400(http: httpx.AsyncClient, content: bytes) -> None:
    response = await http.post("/generate", content=content, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error_type"] == "InvalidRequestError"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_a_body_that_is_not_sent_as_json_is_400_and_says_how_to_send_it(
    http: httpx.AsyncClient, kind: str
) -> None:
    response = await http.post(
        "/generate", content=b'{"prompt": "a"}', headers={"Content-Type": kind}
    )
    await assert_refused(response, "Content-Type: application/json")


async def test_a_long_value_is_not_echoed_whole(http: httpx.AsyncClient) -> None:
    response = await http.post("/generate", json={"prompt": "a", "user_id": "x" * 100_000})
    assert len(response.content) < 600


async def test_a_body_over_the_limit_is_413(http: httpx.AsyncClient) -> None:
    response = await http.post("/generate", content=b" " * (LIMIT + 1), headers=JSON)
    await assert_refused(response, str(LIMIT), status=413)


async def test_a_body_over_the_limit_that_comes_in_pieces_is_413(
    http: httpx.AsyncClient,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1024 + 1):
            yield b" " * 1024

    response = await http.post("/generate", content=pieces(), headers=JSON)
    assert "content-length" not in response.request.headers
    await assert_refused(response, str(LIMIT), status=413)


async def test_a_body_at_the_limit_is_read(http: httpx.AsyncClient) -> None:
    body = b'{"prompt": "a"}'
    response = await http.post("/generate", content=body.ljust(LIMIT), headers=JSON)
    assert response.status_code == 202


async def test_an_unknown_address_is_404(http: httpx.AsyncClient) -> None:
    await assert_refused(await http.get("/nope"), "/nope", status=404)


async def test_a_wrong_method_is_405_and_names_the_right_one(http: httpx.AsyncClient) -> None:
    response = await http.get("/generate")
    await assert_refused(response, "GET", status=405)
    assert response.headers["allow"] == "POST"


async def test_a_wrong_method_names_those_of_all_routes_at_the_address(
    http: httpx.AsyncClient,
) -> None:
    for method, path in [("OPTIONS", "/v1/files/x"), ("PUT", "/v1/responses/x")]:
        response = await http.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"] == "HEAD, GET, DELETE"


@pytest.mark.parametrize(
    "task_id", ["0b0f7a1e-6d0b-4d0c-9d63-2f1f9be1d4a7", "x" * 5000, "%00", "ä"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/{}"),
        ("GET", "/result/{}"),
        ("GET", "/stream/{}"),
        ("POST", "/tasks/{}/cancel"),
        ("DELETE", "/tasks/{}"),
    ],
)
async def test_an_unknown_task_is_404(
    http: httpx.AsyncClient, method: str, path: str, task_id: str
) -> None:
    response = await http.request(method, path.format(task_id))
    await assert_refused(response, "not found", status=404)
    assert response.json()["error_type"] == "TaskNotFoundError"
    assert len(response.content) < 600


@pytest.mark.leaves_debris("it deletes a record", "orphan_events")
async def test_a_task_whose_result_was_dropped_is_410(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    response = await http.post("/generate", json={"prompt": "a"})
    task_id = response.json()["task_id"]
    await http.delete(f"/tasks/{task_id}")
    client.delete(keys.job(task_id))
    for method, path in [
        ("GET", f"/status/{task_id}"),
        ("GET", f"/result/{task_id}"),
        ("GET", f"/stream/{task_id}"),
        ("DELETE", f"/tasks/{task_id}"),
    ]:
        await assert_refused(await http.request(method, path), task_id, status=410)
