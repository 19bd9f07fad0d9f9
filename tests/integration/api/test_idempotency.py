from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from common import keys
from common.connection import SyncRedis
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import LiveGateway, Start
from tests.integration.api.support import (
    AS_BOB,
    MODEL,
    HandWorker,
    eventually,
    open_stream,
    text_of,
)

KEYED = {"Idempotency-Key": '"8e03978e"'}
BODY = {"prompt": "hello", "max_tokens": 7, "metadata": {"a": "1", "b": "2"}}


async def post(
    http: httpx.AsyncClient, body: dict[str, Any] = BODY, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post("/generate", json=body, headers={**KEYED, **named})


def num_jobs(client: SyncRedis) -> int:
    return len(client.keys(keys.JOB + "*"))


async def test_a_repeat_gets_the_same_answer_and_is_marked(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    first, again = await post(http), await post(http)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "x-ratelimit-remaining-requests" in again.headers
    assert "idempotent-replayed" not in first.headers
    assert num_jobs(client) == 1


async def test_a_page_of_another_origin_can_read_the_mark(http: httpx.AsyncClient) -> None:
    response = await post(http, Origin="https://page.test")
    assert "Idempotent-Replayed" in response.headers["access-control-expose-headers"]


async def test_a_repeat_at_another_gateway_is_known(
    http: httpx.AsyncClient, start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    other = await start_app(settings)
    first, again = await post(http), await post(other)
    assert again.json() == first.json()
    assert num_jobs(client) == 1


async def test_the_order_of_the_fields_and_white_space_do_not_matter(
    http: httpx.AsyncClient,
) -> None:
    first = await post(http)
    turned = json.dumps(
        {"metadata": {"b": "2", "a": "1"}, "max_tokens": 7, "prompt": "hello"}, indent=4
    )
    again = await http.post(
        "/generate", content=turned, headers={**KEYED, "Content-Type": "application/json"}
    )
    assert again.json() == first.json()


async def test_a_key_may_come_bare(http: httpx.AsyncClient) -> None:
    first = await post(http)
    again = await post(http, Idempotency_Key="8e03978e")
    assert again.json()["task_id"] == first.json()["task_id"]


async def test_another_body_under_the_key_is_422_and_submits_nothing(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    await post(http)
    response = await post(http, {**BODY, "max_tokens": 8})
    body = response.json()
    assert response.status_code == 422
    assert (body["error_type"], body["param"]) == ("IdempotencyMismatchError", "Idempotency-Key")
    assert "another request" in body["error"]
    assert num_jobs(client) == 1


async def test_keys_are_each_clients_own(http: httpx.AsyncClient) -> None:
    first, theirs = await post(http), await post(http, {"prompt": "other"}, **AS_BOB)
    assert theirs.status_code == 202
    assert theirs.json()["task_id"] != first.json()["task_id"]
    assert "idempotent-replayed" not in theirs.headers


@pytest.mark.parametrize("value", ["", '""', '"abc', "k" * 256, "caf\u00e9"])
async def test_a_malformed_key_is_400_and_submits_nothing(
    http: httpx.AsyncClient, client: SyncRedis, value: str
) -> None:
    response = await http.post("/generate", json=BODY, headers={b"Idempotency-Key": value.encode()})
    assert (response.status_code, response.json()["param"]) == (400, "Idempotency-Key")
    assert num_jobs(client) == 0


async def test_a_key_that_is_sent_twice_must_be_the_same_twice(http: httpx.AsyncClient) -> None:
    for second, status in (('"a"', 202), ("b", 400)):
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", second)]
        response = await http.post("/generate", json=BODY, headers=headers)
        assert response.status_code == status


async def test_a_repeat_tells_where_the_task_is_by_now(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    first = (await post(http)).json()
    worker.run("done")
    again = await post(http)
    body = again.json()
    assert again.status_code == 202
    assert (body["status"], body["queue_position"]) == ("completed", None)
    same = ("task_id", "status_url", "result_url", "stream_url", "cancel_url")
    assert [body[name] for name in same] == [first[name] for name in same]
    assert (await http.get(body["result_url"])).json()["result"] == "done"


async def test_the_stream_address_of_a_repeat_opens_the_stream(
    live: LiveGateway, live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    await post(live_http)
    worker.run("All", " done")
    address = (await post(live_http)).json()["stream_url"]
    task_id, _, token = address.rpartition("/")[2].partition("?token=")
    async with live.client() as stranger:
        del stranger.headers["X-API-Key"]
        async with open_stream(stranger, task_id, params={"token": token}) as stream:
            assert text_of(await stream.rest()) == "All done"


async def test_a_repeat_that_prefers_to_wait_attaches_to_the_running_task(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    task_id = (await post(http)).json()["task_id"]
    claim = worker.claim()
    worker.say(claim, "All")
    waiting = asyncio.create_task(post(http, Prefer="wait=30"))
    worker.say(claim, " done")
    await eventually(lambda: client.pubsub_numsub(keys.bell(task_id))[0][1] == 1)
    worker.end(claim)
    response = await waiting
    assert (response.status_code, response.json()["result"]) == (200, "All done")
    assert response.json()["task_id"] == task_id
    assert response.headers["preference-applied"] == "wait=30"
    assert response.headers["idempotent-replayed"] == "true"
    assert num_jobs(client) == 1


async def test_two_that_wait_for_one_task_both_get_its_result(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    # The race: a proxy sends a request again while its first attempt still waits.
    waiting = [asyncio.create_task(post(http, Prefer="wait=30")) for _ in range(2)]
    await asyncio.to_thread(client.brpop, [keys.permits(MODEL)], 10)
    worker.run("done")
    responses = [await one for one in waiting]
    assert [response.status_code for response in responses] == [200, 200]
    assert responses[0].json() == responses[1].json()
    assert num_jobs(client) == 1


async def test_a_repeat_that_prefers_to_wait_gets_a_result_that_is_there_at_once(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    await post(http)
    worker.run("done")
    response = await post(http, Prefer="wait=30")
    assert (response.status_code, response.json()["result"]) == (200, "done")


async def test_a_cancel_frees_the_key(http: httpx.AsyncClient) -> None:
    first = (await post(http)).json()
    assert (await http.delete(f"/tasks/{first['task_id']}")).status_code == 200
    fresh = await post(http)
    assert fresh.json()["task_id"] != first["task_id"]
    assert "idempotent-replayed" not in fresh.headers


@pytest.mark.leaves_debris("it deletes a record", "ghost")
async def test_a_task_whose_result_was_dropped_is_410_and_not_run_again(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    await post(http)
    task_id = worker.run("done")
    client.delete(keys.job(task_id), keys.events(task_id))  # as if RESULT_TTL_S had passed
    response = await post(http)
    assert (response.status_code, response.json()["error_type"]) == (410, "TaskExpiredError")
    assert task_id in response.json()["error"]
    assert num_jobs(client) == 0


async def test_a_refused_request_is_not_remembered(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL, context_length=20))
    refused = await post(http, {"prompt": "x" * 30, "raw": True})
    assert refused.status_code == 400
    fresh = await post(http, {"prompt": "x", "raw": True})
    assert fresh.status_code == 202
    assert "idempotent-replayed" not in fresh.headers


async def test_what_was_accepted_is_not_refused_when_its_model_has_changed(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    body = {"prompt": "x" * 30, "raw": True, "max_tokens": 7}
    first = await post(await start_app(settings), body)
    worker.publish(fake_card(MODEL, context_length=20))
    http = await start_app(settings)
    again = await post(http, body)
    assert (again.status_code, again.json()) == (202, first.json())
    other = await post(http, {**body, "max_tokens": 8})
    assert other.status_code == 422
    without = await http.post("/generate", json=body)
    assert without.status_code == 400


async def test_what_was_accepted_is_not_refused_when_redis_has_filled_up(
    http: httpx.AsyncClient, start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    first = await post(http)
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.2))
    try:
        full = await start_app(settings)
        again = await post(full)
        fresh = await post(full, Idempotency_Key="another")
    finally:
        client.config_set("maxmemory", 0)
    assert (again.status_code, again.json()) == (202, first.json())
    assert fresh.status_code == 503


async def test_a_repeat_over_the_rate_is_answered(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    http = await start_app(make_settings(rate_limit_per_minute=1, rate_limit_burst=1))
    first = await post(http)
    assert (await http.post("/generate", json=BODY)).status_code == 429
    again = await post(http)
    assert (again.status_code, again.json()) == (202, first.json())
