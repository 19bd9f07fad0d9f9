from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from common.connection import SyncRedis, connect
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, StartLive
from tests.integration.api.support import (
    ALICE,
    AS_ALICE,
    MODEL,
    HandWorker,
    open_stream,
    submit,
    text_of,
)
from tests.redis_server import RedisServer


@pytest.fixture
def settings(own_redis: RedisServer, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, api_keys=[ALICE], redis_url=own_redis.url, log_dir=tmp_path / "logs"
    )


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[SyncRedis]:
    with connect(own_redis.url) as client:
        yield client


@pytest.fixture
async def anybody(live: LiveGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with live.client() as http:
        del http.headers["X-API-Key"]
        yield http


async def wait_for_health(http: httpx.AsyncClient, status: str) -> dict[str, object]:
    async with asyncio.timeout(20):
        while True:
            response = await http.get("/health")
            assert response.status_code == 200
            body: dict[str, object] = response.json()
            if body["status"] == status:
                return body
            await asyncio.sleep(0.05)


async def test_while_redis_is_away_requests_are_503_and_afterwards_all_goes_on(
    live_http: httpx.AsyncClient, own_redis: RedisServer, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    own_redis.kill()
    for method, path in [
        ("POST", "/generate"),
        ("GET", f"/status/{task_id}"),
        ("GET", f"/result/{task_id}"),
        ("GET", f"/stream/{task_id}"),
        ("DELETE", f"/tasks/{task_id}"),
    ]:
        body = {"prompt": "a"} if method == "POST" else None
        response = await live_http.request(method, path, json=body)
        assert response.status_code == 503, path
        assert response.json()["error_type"] == "RedisUnavailableError"
        assert int(response.headers["retry-after"]) >= 1
    own_redis.start()
    assert (await live_http.get(f"/status/{task_id}")).json()["status"] == "queued"
    await submit(live_http)


async def test_health_and_metrics_answer_while_redis_is_away(
    live_http: httpx.AsyncClient, own_redis: RedisServer
) -> None:
    await wait_for_health(live_http, "degraded")
    own_redis.kill()
    body = await wait_for_health(live_http, "unhealthy")
    assert (body["redis_connected"], body["state"]) == (False, "error")
    assert body["reason"] == "Redis cannot be reached."
    assert (await live_http.get("/health/live")).status_code == 200
    assert (await live_http.get("/ready")).status_code == 503
    metrics = (await live_http.get("/metrics")).text
    assert "\nbaton_redis_up 0.0\n" in metrics
    assert "baton_http_requests_total{" in metrics
    assert "baton_num_requests_running" not in metrics
    own_redis.start()
    await wait_for_health(live_http, "degraded")


async def test_a_gateway_that_starts_before_redis_waits_for_it(
    own_redis: RedisServer, start_live: StartLive, settings: Settings
) -> None:
    own_redis.kill()
    async with start_live(settings).client() as http:
        body = (await http.get("/health")).json()
        assert (body["status"], body["redis_connected"]) == ("unhealthy", False)
        own_redis.start()
        await wait_for_health(http, "degraded")
        await submit(http)


async def test_health_answers_while_redis_hangs(
    live_http: httpx.AsyncClient, own_redis: RedisServer
) -> None:
    await wait_for_health(live_http, "degraded")
    os.kill(own_redis.pid, signal.SIGSTOP)
    await wait_for_health(live_http, "unhealthy")
    os.kill(own_redis.pid, signal.SIGCONT)
    await wait_for_health(live_http, "degraded")


async def test_events_that_pub_sub_lost_still_reach_the_stream(
    live_http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    async with open_stream(live_http, task_id) as stream:
        await stream.next()
        client.client_kill_filter(_type="pubsub")
        worker.say(claim, "One")
        assert (await stream.next()).token == "One"
        worker.say(claim, " two")
        assert (await stream.next()).token == " two"


async def test_an_open_stream_goes_on_when_redis_is_back(
    live_http: httpx.AsyncClient, own_redis: RedisServer, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    async with open_stream(live_http, task_id) as stream:
        worker.say(claim, "One")
        frames = [await stream.next(), await stream.next()]
        own_redis.kill()
        await wait_for_health(live_http, "unhealthy")
        own_redis.start()
        worker.say(claim, " two")
        frames.append(await stream.next())
        worker.say(claim, " three")
        worker.end(claim)
        frames += await stream.rest()
    assert text_of(frames) == frames[-1].data["result"] == "One two three"


async def test_a_restart_that_nobody_noticed_loses_no_event_of_an_open_stream(
    live_http: httpx.AsyncClient, own_redis: RedisServer, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    async with open_stream(live_http, task_id) as stream:
        await stream.next()
        own_redis.kill()
        own_redis.start()
        # Called out before the gateway has subscribed again.
        worker.say(claim, "One")
        worker.say(claim, " two")
        worker.end(claim)
        frames = await stream.rest()
    assert text_of(frames) == "One two"


async def test_a_wait_goes_on_when_redis_is_back(
    live_http: httpx.AsyncClient, own_redis: RedisServer, worker: HandWorker, client: SyncRedis
) -> None:
    headers = {"Prefer": "wait=30"}
    waiting = asyncio.create_task(
        live_http.post("/generate", json={"prompt": "a"}, headers=headers)
    )
    await asyncio.to_thread(client.brpop, [f"baton:permits:{MODEL}"], 10)
    own_redis.kill()
    own_redis.start()
    worker.run("done")
    response = await waiting
    assert (response.status_code, response.json()["result"]) == (200, "done")


async def test_a_wrong_key_is_401_also_while_redis_is_away(
    anybody: httpx.AsyncClient, own_redis: RedisServer
) -> None:
    own_redis.kill()
    response = await anybody.get("/status/x", headers={"X-API-Key": "nobody"})
    assert response.status_code == 401
    assert (await anybody.get("/status/x", headers=AS_ALICE)).status_code == 503
