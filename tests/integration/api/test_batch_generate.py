"""`/batch/generate` and `/stream/generate`, as `000_dd3c37f7e9e397a0.txt` has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.answers import BatchGeneratedAnswer, BatchSubmitAnswer
from common import keys
from common.connection import SyncRedis
from common.job_store import Claim
from common.schemas import JobStatus
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import StartLive
from tests.integration.api.support import MODEL, REVISION, HandWorker, eventually

PROMPTS = {
    "prompts": ["Hello", "Goodbye"],
    "max_tokens": 10,
    "temperature": 0.8,
    "strategy": "greedy",
    "top_k": 50,
    "top_p": 0.9,
    "seed": 42,
}
STORY = {"prompt": "Tell me a story", "max_tokens": 100, "strategy": "greedy", "model_id": MODEL}


@pytest.fixture(autouse=True)
def _announced(worker: HandWorker) -> None:
    worker.publish(fake_card(MODEL, context_length=1000))
    worker.announce()


async def claimed(worker: HandWorker) -> Claim:
    """The next job, once it is there."""
    async with asyncio.timeout(20):
        while (claim := worker.claims.claim({MODEL: REVISION})) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    worker._texts[claim.record.job_id] = []
    return claim


async def test_the_results_of_a_batch_are_in_the_order_of_its_prompts(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    asked = asyncio.create_task(http.post("/batch/generate", json=PROMPTS))
    first, second = await claimed(worker), await claimed(worker)
    worker.say(second, " friend", ", see you")
    worker.end(second)
    worker.say(first, " world")
    worker.end(first)

    response = await asked

    assert response.status_code == 200
    BatchGeneratedAnswer.model_validate(response.json())
    results = response.json()["results"]
    assert [result["text"] for result in results] == [" world", " friend, see you"]
    assert [result["num_generated"] for result in results] == [1, 2]
    assert results[1]["token_ids"] == [0, 1]


async def test_a_prompt_that_failed_has_its_error_in_its_place(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    asked = asyncio.create_task(http.post("/batch/generate", json=PROMPTS))
    first, second = await claimed(worker), await claimed(worker)
    worker.end(first, JobStatus.FAILED, error=("EngineError", "It broke."))
    worker.say(second, "ok")
    worker.end(second)

    results = (await asked).json()["results"]

    assert (results[0]["status"], results[0]["error_message"]) == ("error", "It broke.")
    assert results[1]["text"] == "ok"


async def test_a_client_that_would_not_wait_gets_a_task_for_each_prompt(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    response = await http.post("/batch/generate", json=PROMPTS, headers={"Prefer": "respond-async"})

    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    BatchSubmitAnswer.model_validate(response.json())
    tasks = response.json()["tasks"]
    claim = await claimed(worker)
    assert claim.record.job_id == tasks[0]["task_id"]
    for task in tasks:
        assert (await http.get(f"/status/{task['task_id']}")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a"] * 129}, "prompts"),
        ({"prompts": ["a", "  "]}, "prompts[1]"),
        ({"prompts": ["a", 3]}, "prompts[1]"),
        ({"prompt": "a"}, "prompt"),
        ({"temperature": 3}, "temperature"),
        ({"prompts": ["a", "b" * 1000]}, "Prompt 2 of 2"),
    ],
)
async def test_a_bad_batch_is_refused_whole(
    http: httpx.AsyncClient, client: SyncRedis, fields: dict[str, Any], named: str
) -> None:
    response = await http.post("/batch/generate", json=PROMPTS | fields)

    assert response.status_code == 400
    assert named in response.json()["error"]
    assert client.zcard(keys.ready(MODEL, "normal")) == 0


async def test_a_prompt_that_is_too_long_is_named_as_this_route_calls_it(
    http: httpx.AsyncClient,
) -> None:
    response = await http.post("/batch/generate", json=PROMPTS | {"prompts": ["a", "b" * 1000]})

    assert response.json()["param"] == "prompts"


async def test_an_unknown_model_is_404(http: httpx.AsyncClient) -> None:
    for path, body in (("/batch/generate", PROMPTS), ("/stream/generate", STORY)):
        response = await http.post(path, json=body | {"model_id": "does-not-exist"})
        assert response.status_code == 404
        assert response.json()["error"] == "Model 'does-not-exist' not found"


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def test_a_stream_is_tokens_and_then_done(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    async with asyncio.TaskGroup() as group:
        work = group.create_task(claimed(worker))
        work.add_done_callback(lambda task: _tell(worker, task.result()))
        async with live_http.stream("POST", "/stream/generate", json=STORY) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            found = [event async for event in events(response)]

    assert found[-1] == {"done": True}
    assert all(set(event) == {"token"} for event in found[:-1])
    assert "".join(event["token"] for event in found[:-1]) == "Once upon a time."


def _tell(worker: HandWorker, claim: Claim) -> None:
    worker.say(claim, "Once", " upon")
    worker.say(claim, " a", " time")
    worker.end(claim, tail=".")


async def test_a_stream_that_breaks_off_says_why_in_its_last_event(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    async def work() -> None:
        claim = await claimed(worker)
        worker.say(claim, "Once")
        await asyncio.sleep(0.1)  # so that the first token is sent by itself
        worker.end(claim, JobStatus.FAILED, error=("EngineError", "It broke."))

    working = asyncio.create_task(work())
    async with live_http.stream("POST", "/stream/generate", json=STORY) as response:
        found = [event async for event in events(response)]
    await working

    assert found[0] == {"token": "Once"}
    assert (found[-1]["error"], found[-1]["done"]) == ("It broke.", True)


async def test_what_fails_before_the_first_token_has_a_status(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    asked = asyncio.create_task(http.post("/stream/generate", json=STORY))
    worker.end(await claimed(worker), JobStatus.FAILED, error=("EngineError", "It broke."))

    response = await asked

    assert response.status_code == 500
    assert response.json()["error"] == "It broke."


@pytest.mark.parametrize(
    ("path", "body"), [("/batch/generate", PROMPTS), ("/stream/generate", STORY)]
)
async def test_a_client_that_hangs_up_cancels_its_tasks(
    start_live: StartLive,
    settings: Settings,
    worker: HandWorker,
    client: SyncRedis,
    path: str,
    body: dict[str, Any],
) -> None:
    async with start_live(settings).client() as http:
        asked = asyncio.create_task(http.post(path, json=body))
        claim = await claimed(worker)
        asked.cancel()
        await asyncio.wait([asked])

        await eventually(lambda: bool(client.hexists(keys.job(claim.record.job_id), "cancel")))
        await eventually(lambda: client.zcard(keys.ready(MODEL, "normal")) == 0)
    worker.end(claim, JobStatus.CANCELLED)
