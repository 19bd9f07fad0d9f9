from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from common import keys
from common.connection import SyncRedis
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, StartLive
from tests.integration.api.openai.support import HELLO, MODEL, TextWorker
from tests.integration.api.openai.test_errors import error_of
from tests.integration.api.support import AS_ALICE, eventually

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": HELLO}
KEYED = {"Idempotency-Key": "mine"}


def job_ids(client: SyncRedis) -> list[str]:
    return [key.removeprefix(keys.JOB) for key in client.scan_iter(keys.JOB + "*")]


def status_of(client: SyncRedis, job_id: str) -> Any:
    return client.hget(keys.job(job_id), "status")


async def hang_up(asking: asyncio.Task[Any]) -> None:
    asking.cancel()
    await asyncio.wait([asking])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_cancels_its_waiting_job(
    openai: AsyncOpenAI, client: SyncRedis, stream: bool
) -> None:
    asking = asyncio.create_task(
        openai.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    )
    await eventually(lambda: bool(job_ids(client)))
    [job_id] = job_ids(client)
    await hang_up(asking)
    async with asyncio.timeout(5):
        await eventually(lambda: status_of(client, job_id) == "cancelled")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_has_its_running_job_stopped(
    openai: AsyncOpenAI, worker: TextWorker, stream: bool
) -> None:
    asking = asyncio.create_task(
        openai.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    )
    claim = await worker.next()
    await hang_up(asking)
    await eventually(lambda: worker.is_cancelled(claim))


async def test_a_client_that_stops_reading_its_stream_has_its_job_stopped(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    asking = asyncio.create_task(
        openai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    )
    claim = await worker.next()
    worker.tell(claim, "Once ")
    stream = await asking
    await anext(stream)
    await stream.close()
    await eventually(lambda: worker.is_cancelled(claim))


async def test_a_client_that_hangs_up_cancels_the_jobs_of_all_its_prompts(
    openai: AsyncOpenAI, client: SyncRedis
) -> None:
    asking = asyncio.create_task(openai.completions.create(model=MODEL, prompt=["a", "b", "c"]))
    await eventually(lambda: len(job_ids(client)) == 3)
    await hang_up(asking)
    await eventually(
        lambda: {status_of(client, job_id) for job_id in job_ids(client)} == {"cancelled"}
    )


async def test_a_job_with_a_key_outlives_its_client_and_its_repeat_gets_the_answer(
    live_http: httpx.AsyncClient, worker: TextWorker, client: SyncRedis
) -> None:
    first = asyncio.create_task(live_http.post(CHAT, json=BODY, headers=KEYED))
    claim = await worker.next()
    await hang_up(first)
    again = asyncio.create_task(live_http.post(CHAT, json=BODY, headers=KEYED))
    worker.tell(claim, "Hello")
    worker.finish(claim)
    response = await again
    assert response.json()["id"] == f"chatcmpl-{claim.record.job_id}"
    assert response.headers["idempotent-replayed"] == "true"
    assert not worker.is_cancelled(claim)


async def test_a_job_with_a_key_is_cancelled_some_time_after_its_last_client_has_gone(
    live_http: httpx.AsyncClient, worker: TextWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "WAITED_TTL_S", 1)
    asking = asyncio.create_task(live_http.post(CHAT, json=BODY, headers=KEYED))
    claim = await worker.next()
    await hang_up(asking)
    await eventually(lambda: worker.is_cancelled(claim))


async def test_a_client_at_another_gateway_keeps_a_job_with_a_key(
    live: LiveGateway,
    start_live: StartLive,
    settings: Settings,
    worker: TextWorker,
    client: SyncRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "WAITED_TTL_S", 1)
    monkeypatch.setattr("api.attendance.RENEW_S", 0.1)
    other = start_live(settings)
    async with live.client() as here, other.client() as there:
        leaving = asyncio.create_task(here.post(CHAT, json=BODY, headers=KEYED))
        claim = await worker.next()
        staying = asyncio.create_task(there.post(CHAT, json=BODY, headers=KEYED))
        mark = keys.waited(claim.record.job_id)
        await hang_up(leaving)
        await eventually(lambda: client.exists(mark) == 1)
        # By now the one that has left would have cancelled it, were it alone.
        await asyncio.sleep(1.5)
        assert not worker.is_cancelled(claim)
        worker.tell(claim, "Hello")
        worker.finish(claim)
        assert (await staying).status_code == 200


async def test_repeats_get_the_same_answer_streamed_too(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = {**BODY, "stream": True}
    first = asyncio.create_task(live_http.post(CHAT, json=body, headers=KEYED))
    await worker.answer("Hello")
    one = await first
    two = await live_http.post(CHAT, json=body, headers=KEYED)
    assert two.headers["idempotent-replayed"] == "true"
    assert '"content":"Hello"' in one.text
    assert two.text == one.text


async def test_a_repeat_of_several_prompts_gets_all_its_answers(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = {"model": MODEL, "prompt": ["a", "b"]}
    first = asyncio.create_task(live_http.post("/v1/completions", json=body, headers=KEYED))
    await worker.answer("x")
    await worker.answer("y")
    answer = (await first).json()
    again = await live_http.post("/v1/completions", json=body, headers=KEYED)
    assert [choice["text"] for choice in again.json()["choices"]] == ["x", "y"]
    assert again.json() == answer


async def test_another_body_under_the_same_key_is_422(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    asking = asyncio.create_task(live_http.post(CHAT, json=BODY, headers=KEYED))
    await worker.answer("Hello")
    await asking
    other = await live_http.post(CHAT, json={**BODY, "seed": 1}, headers=KEYED)
    assert error_of(other, 422)["code"] == "idempotency_mismatch"


async def test_a_call_that_takes_too_long_is_504_and_its_job_is_cancelled(
    start_live: StartLive, make_settings: Callable[..., Settings], worker: TextWorker
) -> None:
    live = start_live(make_settings(wait_limit_s=0.5))
    async with live.client() as http:
        asking = asyncio.create_task(http.post(CHAT, json=BODY))
        claim = await worker.next()
        response = await asking
        error = error_of(response, 504)
        assert error["type"] == "timeout_error"
        assert error["code"] == "engine_timeout"
        assert error["message"] == "Engine request timed out after 0.5s"
        assert response.headers["x-should-retry"] == "false"
        await eventually(lambda: worker.is_cancelled(claim))


async def test_a_call_over_thirty_seconds_gets_the_timeout_error_of_the_users_document(
    start_live: StartLive,
    make_settings: Callable[..., Settings],
    worker: TextWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    within = asyncio.timeout

    def sooner(seconds: float) -> asyncio.Timeout:
        return within(seconds / 100)

    async with start_live(make_settings(wait_limit_s=30)).client() as http:
        monkeypatch.setattr("api.waiting.asyncio.timeout", sooner)
        error = error_of(await http.post(CHAT, json=BODY), 504)
    # As in 004_d314d6d6ae5d2d3d.txt.
    assert error["message"] == "Engine request timed out after 30s"
    assert error["type"] == "timeout_error"
    assert error["code"] == "engine_timeout"


async def test_a_cancelled_job_ends_its_clients_wait(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    asking = asyncio.create_task(live_http.post(CHAT, json=BODY))
    claim = await worker.next()
    worker.hand_over(claim)
    await live_http.delete(f"/tasks/{claim.record.job_id}")
    response = await asking
    assert error_of(response, 409)["code"] == "task_cancelled"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_worker_a_call_is_503_after_a_while(
    live_http: httpx.AsyncClient,
    client: SyncRedis,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    monkeypatch.setattr("api.waiting.NO_WORKER_S", 0.5)
    monkeypatch.setattr("api.openai.serving.HEARTBEAT_S", 0.0)
    response = await live_http.post(CHAT, json={**BODY, "stream": stream})
    error = error_of(response, 503)
    assert error["code"] == "no_worker"
    assert int(response.headers["retry-after"]) >= 1
    [job_id] = job_ids(client)
    await eventually(lambda: status_of(client, job_id) == "cancelled")


async def test_a_worker_that_still_loads_the_model_is_waited_for(
    live: LiveGateway,
    live_http: httpx.AsyncClient,
    worker: TextWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.waiting.CHECK_S", 0.01)
    worker.announce("loading")
    await live.gateway.poller.poll()
    assert live.gateway.poller.absent_s(MODEL) == 0
    monkeypatch.setattr("api.waiting.NO_WORKER_S", 1e-9)
    asking = asyncio.create_task(live_http.post(CHAT, json=BODY))
    await worker.answer("Hello")
    assert (await asking).status_code == 200


async def test_an_answer_that_is_there_needs_no_worker(
    live: LiveGateway,
    live_http: httpx.AsyncClient,
    worker: TextWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = asyncio.create_task(live_http.post(CHAT, json=BODY, headers=KEYED))
    await worker.answer("Hello")
    await asking
    worker.claims.leave()
    await live.gateway.poller.poll()
    monkeypatch.setattr("api.waiting.NO_WORKER_S", 0.0)
    assert (await live_http.post(CHAT, json=BODY, headers=KEYED)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gateway_that_stops_sends_its_clients_elsewhere_and_cancels_their_jobs(
    start_live: StartLive, settings: Settings, worker: TextWorker, stream: bool
) -> None:
    live = start_live(settings)
    async with live.client() as http:
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": stream}))
        claim = await worker.next()
        await live.stop()
        assert error_of(await asking, 503)["code"] == "shutting_down"
    assert worker.is_cancelled(claim)


async def test_a_browser_may_read_what_an_answer_says_of_itself(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    headers = {**AS_ALICE, "Origin": "https://app.example"}
    asking = asyncio.create_task(live_http.post(CHAT, json=BODY, headers=headers))
    await worker.answer("Hello")
    exposed = (await asking).headers["access-control-expose-headers"].lower()
    assert "x-ratelimit-remaining-requests" in exposed
    assert "x-request-id" in exposed


async def test_the_sdk_calls_it_a_timeout_of_the_server(
    start_live: StartLive, make_settings: Callable[..., Settings], worker: TextWorker
) -> None:
    live = start_live(make_settings(wait_limit_s=0.2))
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=AS_ALICE["X-API-Key"]) as client:
        with pytest.raises(sdk.InternalServerError, match="timed out after") as raised:
            await client.chat.completions.create(model=MODEL, messages=HELLO)
    assert raised.value.status_code == 504
