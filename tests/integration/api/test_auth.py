from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest

from common.settings import Settings
from tests.integration.api.conftest import Start
from tests.integration.api.support import ALICE, AS_BOB, HandWorker, open_stream, submit

PROTECTED = [
    ("POST", "/generate"),
    ("GET", "/models"),
    ("GET", "/status/x"),
    ("GET", "/result/x"),
    ("GET", "/stream/x"),
    ("POST", "/tasks/x/cancel"),
    ("DELETE", "/tasks/x"),
]
OPEN = ["/", "/health", "/health/live", "/metrics", "/docs", "/redoc", "/openapi.json"]


@pytest.fixture
def anybody(http: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client without a key."""
    del http.headers["X-API-Key"]
    return http


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "alice-ke"},
        {"X-API-Key": "alice-key "},
        {"X-API-Key": b"\xe9"},
        {"Authorization": "Bearer nobody"},
        {"Authorization": f"Basic {ALICE}"},
    ],
)
async def test_a_missing_or_wrong_key_is_401(
    anybody: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    if headers.get("X-API-Key") == "alice-key ":
        headers = {"X-API-Key": "alice key"}
    response = await anybody.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error_type"] == "AuthenticationError"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    ["/generate", "/batch/generate", "/stream/generate", "/tokenize", "/infer"]
    + [f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses")]
    + ["/v1/batches"],
)
async def test_nothing_is_read_of_the_body_of_who_has_no_key(
    http: httpx.AsyncClient, path: str
) -> None:
    assert (await http.post(path, content=b"[" * 1000)).status_code == 400
    anybody = {"X-API-Key": "", "Content-Type": "application/json"}
    response = await http.post(path, content=b"[" * 1000, headers=anybody)
    assert response.status_code == 401


@pytest.mark.parametrize("path", OPEN)
async def test_what_tells_nothing_of_anybody_needs_no_key(
    anybody: httpx.AsyncClient, path: str
) -> None:
    assert (await anybody.get(path)).status_code == 200


@pytest.mark.parametrize(("method", "path"), [p for p in PROTECTED if p[1] != "/stream/x"])
async def test_a_key_in_the_address_opens_nothing_but_streams(
    anybody: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await anybody.request(method, path, params={"api_key": ALICE, "token": ALICE})
    assert response.status_code == 401


async def test_a_key_in_the_address_opens_a_stream(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run("x")
    del live_http.headers["X-API-Key"]
    async with open_stream(live_http, task_id, params={"api_key": ALICE}) as stream:
        assert (await stream.rest())[-1].data["result"] == "x"


async def test_a_stream_token_opens_its_own_stream_and_nothing_else(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    answers = [(await live_http.post("/generate", json={"prompt": "a"})).json() for _ in range(2)]
    tokens = [answer["stream_url"].partition("?token=")[2] for answer in answers]
    task_id, other_id = (answer["task_id"] for answer in answers)
    worker.run("x")
    del live_http.headers["X-API-Key"]
    async with open_stream(live_http, task_id, params={"token": tokens[0]}) as stream:
        assert (await stream.rest())[-1].data["result"] == "x"
    for path, token in [
        (f"/stream/{other_id}", tokens[0]),
        (f"/stream/{task_id}", tokens[0][:-1]),
        ("/stream/unknown", tokens[0]),
        (f"/result/{task_id}", tokens[0]),
    ]:
        response = await live_http.get(path, params={"token": token})
        assert response.status_code == 401


async def test_a_wrong_key_beside_a_right_token_is_401(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/generate", json={"prompt": "a"})).json()
    response = await http.get(answer["stream_url"], headers={"X-API-Key": "nobody"})
    assert response.status_code == 401


async def test_too_many_failures_from_one_address_are_429_while_a_right_key_goes_on(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    http = await start_app(make_settings(rate_limit_per_minute=3))
    bad = {"X-API-Key": "nobody"}
    answers = [await http.get("/models", headers=bad) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].json()["error"] == "Rate limit exceeded"
    assert (await http.get("/models")).status_code == 200
    assert (await http.get("/models", headers=AS_BOB)).status_code == 200


async def test_no_key_and_no_token_reaches_the_log(
    live_http: httpx.AsyncClient, worker: HandWorker, caplog: pytest.LogCaptureFixture
) -> None:
    # The test's own client logs the addresses that it asks for.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    caplog.set_level(logging.DEBUG)
    answer = (await live_http.post("/generate", json={"prompt": "a"})).json()
    token = answer["stream_url"].partition("?token=")[2]
    worker.run("x")
    task_id = answer["task_id"]
    await live_http.get(f"/stream/{task_id}", params={"token": token})
    await live_http.get(f"/stream/{task_id}", params={"api_key": ALICE})
    await live_http.get("/status/x", params={"api_key": ALICE, "token": token})
    lines = [repr(record.__dict__) for record in caplog.records]
    assert any(f"GET /stream/{task_id}" in line for line in lines)
    assert not [line for line in lines if token in line or ALICE in line]
