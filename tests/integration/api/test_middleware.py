from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest

from api.gateway import Gateway
from common.settings import Settings
from tests.integration.api.conftest import Start, StartLive
from tests.integration.api.support import submit


def log_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "api.access"]


async def test_a_clients_request_id_comes_back(http: httpx.AsyncClient) -> None:
    response = await http.get("/status/x", headers={"X-Request-ID": "my-id 1"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "my-id 1"


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a\tb", b"\xe9"])
async def test_a_request_id_that_cannot_be_used_is_replaced(
    http: httpx.AsyncClient, request_id: str
) -> None:
    response = await http.get("/health", headers={"X-Request-ID": request_id})
    assert len(response.headers["x-request-id"]) == 32


async def test_requests_without_an_id_get_different_ones(http: httpx.AsyncClient) -> None:
    ids = {(await http.get("/health")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("path", ["/health", "/nope", "/status/x", "/docs"])
async def test_every_answer_has_the_security_headers(http: httpx.AsyncClient, path: str) -> None:
    headers = (await http.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-xss-protection"] == "1; mode=block"
    assert "strict-transport-security" not in headers
    assert "server" not in headers


async def test_under_tls_browsers_are_told_to_stay_there(http: httpx.AsyncClient) -> None:
    response = await http.get("https://baton.test/health")
    assert "max-age=" in response.headers["strict-transport-security"]


async def test_any_origin_may_call_and_read_our_headers(http: httpx.AsyncClient) -> None:
    response = await http.get("/health", headers={"Origin": "https://page.test"})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers
    exposed = response.headers["access-control-expose-headers"].lower()
    for name in ("x-request-id", "retry-after", "location", "x-ratelimit-remaining-requests"):
        assert name in exposed


async def test_a_browsers_preflight_is_answered_without_a_key(http: httpx.AsyncClient) -> None:
    del http.headers["X-API-Key"]
    response = await http.options(
        "/generate",
        headers={
            "Origin": "https://page.test",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key,content-type",
        },
    )
    assert response.status_code == 200
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "x-api-key" in response.headers["access-control-allow-headers"]


async def test_an_origin_that_is_not_listed_is_not_allowed(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    http = await start_app(make_settings(cors_origins=["https://ours.test"]))
    theirs = await http.get("/health", headers={"Origin": "https://theirs.test"})
    ours = await http.get("/health", headers={"Origin": "https://ours.test"})
    assert "access-control-allow-origin" not in theirs.headers
    assert ours.headers["access-control-allow-origin"] == "https://ours.test"


async def test_errors_have_the_cors_headers_too(http: httpx.AsyncClient) -> None:
    del http.headers["X-API-Key"]
    response = await http.get("/models", headers={"Origin": "https://page.test"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "*"


async def test_what_nobody_foresaw_is_500_without_details_and_logged_with_its_request(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Gateway) -> float:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Gateway, "uptime_s", property(fail))
    headers = {"Origin": "https://page.test", "X-Request-ID": "r1"}
    response = await http.get("/health", headers=headers)
    body = response.json()
    assert (response.status_code, body["status_code"], body["request_id"]) == (500, 500, "r1")
    assert body["error_type"] == "InternalError"
    assert "secret" not in response.text
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-frame-options"] == "DENY"
    [error] = [record for record in caplog.records if record.exc_info]
    assert error.levelno == logging.ERROR
    assert "/secret/path" in str(error.exc_info)


async def test_each_request_is_one_line_with_its_key_and_without_its_query(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.access")
    task_id = await submit(http)
    [line] = log_records(caplog)
    assert line.__dict__["task_id"] == task_id
    caplog.clear()
    await http.get("/status/x?api_key=hidden")
    [line] = log_records(caplog)
    assert line.getMessage() == "GET /status/x"
    assert line.__dict__["status"] == 404
    assert line.__dict__["ms"] >= 0
    assert len(line.__dict__["key_id"]) == 16
    assert "hidden" not in repr(line.__dict__)


async def test_probes_do_not_fill_the_log(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.access")
    for path in ("/health", "/health/live", "/ready", "/metrics"):
        await http.get(path)
    assert log_records(caplog) == []


async def test_a_path_cannot_write_lines_of_its_own_into_the_log(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.access")
    await http.get("/a%0Aforged%1b[31m" + "x" * 5000)
    [line] = log_records(caplog)
    assert line.getMessage().isprintable()
    assert len(line.getMessage()) < 200


@pytest.mark.parametrize(("proxy", "scheme"), [("127.0.0.1", "https"), ("10.0.0.1", "http")])
async def test_only_a_trusted_proxy_says_how_it_was_called(
    start_live: StartLive, make_settings: Callable[..., Settings], proxy: str, scheme: str
) -> None:
    async with start_live(make_settings(trusted_proxies=[proxy])).client() as http:
        response = await http.post(
            "/generate", json={"prompt": "a"}, headers={"X-Forwarded-Proto": "https"}
        )
    assert response.json()["status_url"].startswith(f"{scheme}://")
    assert ("strict-transport-security" in response.headers) == (scheme == "https")


@pytest.mark.parametrize("path", ["/", "/health", "/models", "/docs", "/metrics"])
async def test_head_is_get_without_the_body(http: httpx.AsyncClient, path: str) -> None:
    get, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_head_of_a_stream_does_not_wait_for_its_events(http: httpx.AsyncClient) -> None:
    task_id = (await http.post("/generate", json={"prompt": "x"})).json()["task_id"]
    answer = await http.head(f"/stream/{task_id}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
