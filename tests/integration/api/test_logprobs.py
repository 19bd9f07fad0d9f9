from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.answers import FailedAnswer, GeneratedAnswer
from common import keys
from common.connection import SyncRedis
from common.schemas import JobStatus
from tests.fakes import fake_card
from tests.integration.api.support import MODEL, Frame, HandWorker, open_stream, submit

TOKENS = ("One", " two", " three", " four")


def expected(*token_ids: int) -> list[dict[str, Any]]:
    """What `HandWorker` says, as a client sees it."""
    return [
        {
            "token_id": n,
            "logprob": -n / 4,
            "top_logprobs": [{"token_id": n, "logprob": -n / 4}],
        }
        for n in token_ids
    ]


def put_together(frames: list[Frame]) -> list[dict[str, Any]]:
    return [each for frame in frames for each in frame.data.get("logprobs", [])]


async def test_a_result_has_a_logprob_for_each_token_where_it_was_asked_for(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    plain, asking = await submit(http), await submit(http, logprobs=1)
    worker.run("One", tail=".")
    worker.run(*TOKENS, tail=".")
    result = (await http.get(f"/result/{asking}")).json()
    assert result["logprobs"] == expected(0, 1, 2, 3)
    assert [each["token_id"] for each in result["logprobs"]] == result["token_ids"]
    GeneratedAnswer.model_validate(result)
    assert "logprobs" not in (await http.get(f"/result/{plain}")).json()


async def test_an_expired_task_keeps_the_logprobs_that_it_has(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http, logprobs=0)
    claim = worker.claim()
    worker.say(claim, "half")
    worker.end(claim, JobStatus.EXPIRED)
    result = (await http.get(f"/result/{task_id}")).json()
    assert result["logprobs"] == expected(0)
    FailedAnswer.model_validate(result)


@pytest.mark.parametrize("has", range(5))
async def test_the_logprobs_of_all_frames_are_those_of_the_result_wherever_a_client_resumes(
    live_http: httpx.AsyncClient, worker: HandWorker, has: int
) -> None:
    task_id = await submit(live_http, logprobs=1)
    worker.run(*TOKENS, tail=".")
    async with open_stream(live_http, task_id, last_event_id=has) as stream:
        frames = await stream.rest()
    assert put_together(frames) == expected(*range(has, 4))


async def test_a_token_comes_with_its_logprob_and_a_status_with_none(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http, logprobs=1)
    async with open_stream(live_http, task_id) as stream:
        assert "logprobs" not in (await stream.next()).data
        claim = worker.claim()
        assert "logprobs" not in (await stream.next()).data
        worker.say(claim, "One", " two")
        assert (await stream.next()).data["logprobs"] == expected(0, 1)
        worker.restart(claim)
        assert (await stream.next()).data["logprobs"] == []
        worker.say(claim, "Uno")
        assert (await stream.next()).data["logprobs"] == expected(0)
        worker.end(claim, tail="!")
        assert (await stream.next()).data["logprobs"] == []


async def test_a_stream_that_was_not_asked_has_no_logprobs(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS)
    async with open_stream(live_http, task_id) as stream:
        assert not any("logprobs" in frame.data for frame in await stream.rest())


async def test_where_the_events_are_gone_one_frame_holds_all_logprobs(
    live_http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    task_id = await submit(live_http, logprobs=1)
    worker.run(*TOKENS)
    client.delete(keys.events(task_id))
    async with open_stream(live_http, task_id, last_event_id=2) as stream:
        [frame] = await stream.rest()
    assert frame.data["logprobs"] == expected(0, 1, 2, 3)


@pytest.mark.parametrize(
    "fields", [{"stop_token_ids": [3, 256]}, {"logit_bias": {"3": 1, "256": 1}}]
)
async def test_a_token_that_the_model_does_not_have_is_400(
    http: httpx.AsyncClient, worker: HandWorker, fields: dict[str, Any]
) -> None:
    worker.announce()
    worker.publish(fake_card(MODEL))
    response = await http.post("/generate", json={"prompt": "a", **fields})
    assert response.status_code == 400
    [name] = fields
    assert response.json()["param"] == name
    assert (
        f"{name} must name tokens of '{MODEL}', from 0 to 255; got 256" in response.json()["error"]
    )
