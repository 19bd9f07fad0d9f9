from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from common import keys
from common.connection import SyncRedis
from common.schemas import JobRecord, Prompt
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import Start
from tests.integration.api.support import ALICE, AS_ALICE, MODEL, HandWorker, submit


def record_of(client: SyncRedis, task_id: str) -> JobRecord:
    return JobRecord.from_fields(task_id, client.hgetall(keys.job(task_id)))


async def submitted(http: httpx.AsyncClient, client: SyncRedis, **body: Any) -> JobRecord:
    response = await http.post("/generate", json=body)
    assert response.status_code == 202, response.text
    return record_of(client, response.json()["task_id"])


async def test_an_accepted_job_says_where_to_follow_it(http: httpx.AsyncClient) -> None:
    response = await http.post("/generate", json={"prompt": "hello"})
    body = response.json()
    task_id = body["task_id"]
    assert response.status_code == 202
    assert uuid.UUID(task_id)
    token = body["stream_url"].partition("?token=")[2]
    assert len(token) >= 32
    base = "http://baton.test"
    assert body == {
        "status": "queued",
        "task_id": task_id,
        "message": "Your request is being processed. Use the task_id to check status.",
        "status_url": f"{base}/status/{task_id}",
        "result_url": f"{base}/result/{task_id}",
        "stream_url": f"{base}/stream/{task_id}?token={token}",
        "cancel_url": f"{base}/tasks/{task_id}/cancel",
        "queue_position": 1,
    }
    assert response.headers["location"] == body["status_url"]
    assert response.headers["retry-after"] == "1"


async def test_the_answer_tells_what_is_left_of_the_rate(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    http = await start_app(make_settings(rate_limit_per_minute=60, rate_limit_burst=10))
    response = await http.post("/generate", json={"prompt": "hello"})
    headers = response.headers
    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-reset-requests"] == "1s"


async def test_a_job_carries_all_that_was_asked_for(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    record = await submitted(
        http,
        client,
        prompt="hello",
        raw=True,
        max_tokens=7,
        temperature=1,
        top_p=0.5,
        top_k=3,
        min_p=0.1,
        seed=2**63 - 1,
        stop="END",
        stop_token_ids=[5, 6],
        logit_bias={"70": 1.5, "9": -100},
        logprobs=0,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.5,
        ignore_eos=True,
        min_tokens=7,
        model_id="default",
        user_id="user-12345",
        priority="high",
        timeout=0.5,
        metadata={"a": "b"},
    )
    sampling = record.sampling
    assert (record.model, record.job_class, record.user_id) == (MODEL, "high", "user-12345")
    assert record.metadata == {"a": "b"}
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (7, 7, True)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1, 0.5, 3)
    assert (sampling.min_p, sampling.seed, sampling.stop) == (0.1, 2**63 - 1, ("END",))
    assert (sampling.stop_token_ids, sampling.logprobs) == ((5, 6), 0)
    assert sampling.logit_bias == ((9, -100.0), (70, 1.5))
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-2, 2)
    assert (sampling.repetition_penalty, sampling.time_limit_s) == (1.5, 0.5)


async def test_what_was_not_asked_for_comes_from_the_settings(
    start_app: Start, make_settings: Callable[..., Settings], client: SyncRedis
) -> None:
    http = await start_app(make_settings(temperature=0.3, top_p=0.4, task_time_limit=50))
    sampling = (await submitted(http, client, prompt="hello")).sampling
    assert (sampling.temperature, sampling.top_p, sampling.time_limit_s) == (0.3, 0.4, 50)


async def test_jobs_without_a_seed_get_different_ones(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    records = [await submitted(http, client, prompt="hello") for _ in range(2)]
    assert records[0].sampling.seed != records[1].sampling.seed


@pytest.mark.parametrize(
    ("strategy", "temperature", "top_p", "top_k"),
    [("greedy", 0, 0.5, 7), ("top_k", 0.9, 1, 7), ("top_p", 0.9, 0.5, 0)],
)
async def test_a_strategy_wins_over_the_numbers_beside_it(
    http: httpx.AsyncClient,
    client: SyncRedis,
    strategy: str,
    temperature: float,
    top_p: float,
    top_k: int,
) -> None:
    asked = {"temperature": 0.9, "top_p": 0.5, "top_k": 7}
    record = await submitted(http, client, prompt="hello", strategy=strategy, **asked)
    sampling = record.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (temperature, top_p, top_k)


async def test_top_k_without_a_number_keeps_fifty(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    record = await submitted(http, client, prompt="hello", strategy="top_k")
    assert record.sampling.top_k == 50


async def test_a_model_that_was_never_announced_gets_its_prompt_as_it_came(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    record = await submitted(http, client, messages=messages)
    assert record.prompt == Prompt(messages=tuple(messages))
    assert record.prompt_ids is None
    assert record.sampling.max_tokens is None


async def test_a_prompt_is_encoded_through_the_announced_models_template(
    http: httpx.AsyncClient, client: SyncRedis, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL))
    by_text = await submitted(http, client, prompt="hi")
    by_messages = await submitted(http, client, messages=[{"role": "user", "content": "hi"}])
    raw = await submitted(http, client, prompt="[user]hi[assistant]", raw=True)
    assert by_text.prompt_ids == by_messages.prompt_ids == raw.prompt_ids
    assert by_text.prompt_tokens == len("[user]hi[assistant]")
    assert by_text.prompt is None


async def test_max_tokens_left_out_is_cut_to_what_the_context_still_holds(
    http: httpx.AsyncClient, client: SyncRedis, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL, context_length=100))
    record = await submitted(http, client, prompt="x" * 90, raw=True)
    assert record.sampling.max_tokens == 10


async def test_a_long_prompt_is_encoded_like_a_short_one(
    http: httpx.AsyncClient, client: SyncRedis, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL, context_length=10_000))
    short = await submitted(http, client, prompt="abc", raw=True)
    long = await submitted(http, client, prompt="abc" * 3000, raw=True)
    assert short.prompt_ids is not None
    assert long.prompt_ids == short.prompt_ids * 3000


async def test_prompt_and_max_tokens_over_the_context_are_400_with_both_numbers(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL, context_length=100))
    response = await http.post(
        "/generate", json={"prompt": "x" * 60, "raw": True, "max_tokens": 50}
    )
    body = response.json()
    assert (response.status_code, body["error_type"]) == (400, "ContextLengthError")
    assert body["param"] == "max_tokens"
    assert all(number in body["error"] for number in ("60", "50", "110", "100"))


async def test_a_prompt_over_the_context_is_400(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL, context_length=100))
    response = await http.post("/generate", json={"prompt": "x" * 100, "raw": True})
    assert (response.status_code, response.json()["param"]) == (400, "prompt")


async def test_a_full_queue_is_503_and_says_when_to_come_again(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    http = await start_app(make_settings(queue_capacity=2))
    for _ in range(2):
        await submit(http)
    response = await http.post("/generate", json={"prompt": "hello"})
    assert (response.status_code, response.json()["error_type"]) == (503, "QueueFullError")
    assert int(response.headers["retry-after"]) >= 1


async def test_nothing_new_is_taken_while_the_queues_memory_is_nearly_full(
    start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", int(used * 1.2))
    try:
        http = await start_app(settings)
        response = await http.post("/generate", json={"prompt": "hello"})
    finally:
        client.config_set("maxmemory", 0)
    assert (response.status_code, response.json()["error_type"]) == (503, "QueueFullError")
    assert "retry-after" in response.headers


async def test_a_client_that_prefers_to_wait_gets_the_result(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    waiting = asyncio.create_task(
        http.post("/generate", json={"prompt": "hello"}, headers={"Prefer": "wait=30"})
    )
    await asyncio.to_thread(client.brpop, [keys.permits(MODEL)], 10)
    task_id = worker.run("All", " done")
    response = await waiting
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.json() == (await http.get(f"/result/{task_id}")).json()
    assert response.json()["result"] == "All done"


async def test_a_wait_that_is_too_short_is_answered_like_a_submission(
    http: httpx.AsyncClient,
) -> None:
    response = await http.post("/generate", json={"prompt": "hello"}, headers={"Prefer": "wait=0"})
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    assert "preference-applied" not in response.headers


async def test_a_wait_of_no_whole_number_is_400_and_submits_nothing(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    response = await http.post(
        "/generate", json={"prompt": "hello"}, headers={"Prefer": "wait=soon"}
    )
    assert (response.status_code, response.json()["param"]) == (400, "Prefer")
    assert client.keys("baton:job:*") == []


async def test_open_ai_clients_may_send_the_key_as_a_bearer_token(
    http: httpx.AsyncClient,
) -> None:
    del http.headers["X-API-Key"]
    response = await http.post(
        "/generate", json={"prompt": "hello"}, headers={"Authorization": f"Bearer {ALICE}"}
    )
    assert response.status_code == 202


async def test_the_users_own_example_of_a_submission_is_accepted(http: httpx.AsyncClient) -> None:
    # From 001_236851b6479a707f.txt.
    body = {
        "prompt": "Your prompt here",
        "max_tokens": 512,
        "temperature": 0.7,
        "top_p": 0.9,
        "user_id": "optional-user-id",
    }
    response = await http.post(
        "/generate",
        content=json.dumps(body),
        headers={**AS_ALICE, "Content-Type": "application/json"},
    )
    assert response.status_code == 202
