from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any

import httpx
import pytest

from api.answers import (
    CancelAnswer,
    FailedAnswer,
    GeneratedAnswer,
    StatusAnswer,
    SubmitAnswer,
    UnfinishedAnswer,
)
from common import keys
from common.connection import SyncRedis
from common.log import REQUEST_LOGGER
from common.schemas import JobStatus
from tests.integration.api.support import AS_BOB, MODEL, REVISION, HandWorker, submit


def set_times(client: SyncRedis, task_id: str, **times_ms: int) -> None:
    client.hset(keys.job(task_id), mapping=times_ms)


async def test_the_status_of_a_waiting_task_tells_its_place_in_line(
    http: httpx.AsyncClient,
) -> None:
    await submit(http)
    second = await submit(http)
    body = (await http.get(f"/status/{second}")).json()
    created = datetime.fromisoformat(body.pop("created_at"))
    assert created.tzinfo is not None
    assert body == {
        "status": "queued",
        "task_id": second,
        "message": "Task is waiting in the queue",
        "queue_position": 2,
        "eta_seconds": None,
        "progress": {"completion_tokens": 0, "max_tokens": None},
        "attempt": 0,
        "started_at": None,
        "ended_at": None,
        "model": MODEL,
        "user_id": None,
        "metadata": {},
    }


async def test_the_status_shows_what_the_client_keeps_with_its_task(
    http: httpx.AsyncClient,
) -> None:
    task_id = await submit(http, user_id="u1", metadata={"a": "b"})
    body = (await http.get(f"/status/{task_id}")).json()
    assert (body["user_id"], body["metadata"]) == ("u1", {"a": "b"})


async def test_a_higher_class_goes_before(http: httpx.AsyncClient) -> None:
    normal = await submit(http)
    await submit(http, priority="high")
    assert (await http.get(f"/status/{normal}")).json()["queue_position"] == 2


async def test_the_status_of_a_running_task_tells_its_progress(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http, max_tokens=10)
    claim = worker.claim()
    worker.say(claim, "a", "b", "c", "d", used_ms=2000)
    body = (await http.get(f"/status/{task_id}")).json()
    assert (body["status"], body["message"]) == ("processing", "Task is currently being processed")
    assert body["progress"] == {"completion_tokens": 4, "max_tokens": 10}
    assert (body["attempt"], body["queue_position"]) == (1, None)
    assert body["eta_seconds"] == 3.0  # half a second a token, six to go
    assert body["started_at"] is not None


@pytest.mark.parametrize("started", [False, True])
async def test_an_unfinished_result_is_202_and_says_when_to_come_again(
    http: httpx.AsyncClient, worker: HandWorker, started: bool
) -> None:
    task_id = await submit(http)
    if started:
        worker.claim()
    response = await http.get(f"/result/{task_id}")
    assert response.status_code == 202
    assert response.headers["retry-after"] == "1"
    status = "processing" if started else "queued"
    assert response.json()["status"] == status
    assert set(response.json()) == {"status", "task_id", "message"}


async def test_a_result_has_the_text_and_the_metrics(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    task_id = await submit(http)
    worker.run("One", " two", tail=" three")
    set_times(
        client,
        task_id,
        created_ms=10_000,
        started_ms=10_500,
        first_token_ms=10_750,
        ended_ms=12_500,
    )
    response = await http.get(f"/result/{task_id}")
    assert response.status_code == 200
    assert response.json() == {
        "status": "completed",
        "task_id": task_id,
        "result": "One two three",
        "metrics": {
            "queue_wait_time": 0.5,
            "processing_time": 2.0,
            "total_time": 2.5,
            "prompt_tokens": 12,
            "completion_tokens": 2,
            "tokens_per_second": 1.0,
            "time_to_first_token": 0.75,
            "prefill_time": 0.25,
            "decode_time": 1.75,
            "batch_size": 4,
            "cached_tokens": 3,
            "attempts": 1,
        },
        "token_ids": [0, 1],
        "text": "One two three",
        "num_generated": 2,
        "finish_reason": "stop",
        "model": MODEL,
    }


async def test_a_failed_task_is_an_error_with_its_reason(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http)
    claim = worker.claim()
    worker.end(claim, JobStatus.FAILED, error=("ModelLoadError", "Model loading failed"))
    response = await http.get(f"/result/{task_id}")
    assert response.status_code == 200
    assert response.json() == {
        "status": "error",
        "task_id": task_id,
        "error_message": "Model loading failed",
        "error_type": "ModelLoadError",
        "model": MODEL,
    }
    status = (await http.get(f"/status/{task_id}")).json()
    assert (status["status"], status["message"]) == ("failed", "Model loading failed")


async def test_an_expired_task_is_an_error_too_and_keeps_what_it_had_generated(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http)
    claim = worker.claim()
    worker.say(claim, "half")
    worker.end(claim, JobStatus.EXPIRED, error=("DeadlineExceededError", "Too long"))
    body = (await http.get(f"/result/{task_id}")).json()
    assert (body["status"], body["state"]) == ("error", "expired")
    assert (body["error_type"], body["error_message"]) == ("DeadlineExceededError", "Too long")
    assert (body["result"], body["token_ids"]) == ("half", [0])


async def test_cancelling_a_waiting_task_ends_it_at_once(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http)
    response = await http.post(f"/tasks/{task_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    assert worker.claims.claim({MODEL: REVISION}) is None
    body = (await http.get(f"/result/{task_id}")).json()
    assert (body["status"], body["result"], body["num_generated"]) == ("cancelled", "", 0)


async def test_cancelling_a_running_task_tells_its_worker_and_keeps_what_was_generated(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http)
    claim = worker.claim()
    worker.say(claim, "half")
    response = await http.delete(f"/tasks/{task_id}")
    assert (response.status_code, response.json()["status"]) == (202, "processing")
    worker.end(claim, JobStatus.CANCELLED, finish_reason="cancelled")
    body = (await http.get(f"/result/{task_id}")).json()
    assert (body["status"], body["result"]) == ("cancelled", "half")
    assert body["finish_reason"] == "cancelled"


async def test_cancelling_again_changes_nothing(http: httpx.AsyncClient) -> None:
    task_id = await submit(http)
    answers = [await http.delete(f"/tasks/{task_id}") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_cancelling_a_completed_task_leaves_it_completed(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(http)
    worker.run("done")
    response = await http.post(f"/tasks/{task_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "completed")


async def test_a_job_that_the_gateway_ends_gets_its_line_in_the_request_log(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger(REQUEST_LOGGER)
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, REQUEST_LOGGER)
    response = await http.post(
        "/generate",
        json={"prompt": "secret words", "user_id": "u1"},
        headers={"X-Request-ID": "its-submission"},
    )
    task_id = response.json()["task_id"]
    for _ in range(2):
        await http.delete(f"/tasks/{task_id}")
    [line] = [record for record in caplog.records if record.name == REQUEST_LOGGER]
    fields: dict[str, Any] = line.__dict__
    assert fields["event"] == "job_ended"
    assert (fields["task_id"], fields["status"]) == (task_id, "cancelled")
    assert (fields["request_id"], fields["user_id"]) == ("its-submission", "u1")
    assert (fields["model"], len(fields["key_id"])) == (MODEL, 16)
    assert "secret words" not in json.dumps(fields, default=str)


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
@pytest.mark.parametrize("ended", [False, True])
async def test_another_keys_task_is_404(
    http: httpx.AsyncClient, worker: HandWorker, method: str, path: str, ended: bool
) -> None:
    task_id = await submit(http)
    if ended:
        worker.run("x")
    response = await http.request(method, path.format(task_id), headers=AS_BOB)
    unknown = await http.request(method, path.format("unknown"), headers=AS_BOB)
    assert response.status_code == unknown.status_code == 404
    assert response.json()["error"] == unknown.json()["error"].replace("unknown", task_id)
    if not ended:
        assert (await http.get(f"/status/{task_id}")).json()["status"] == "queued"


async def test_the_answers_are_what_the_documentation_says(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    submitted = (await http.post("/generate", json={"prompt": "a"})).json()
    task_id = submitted["task_id"]
    SubmitAnswer.model_validate(submitted)
    StatusAnswer.model_validate((await http.get(f"/status/{task_id}")).json())
    UnfinishedAnswer.model_validate((await http.get(f"/result/{task_id}")).json())
    worker.run("x")
    GeneratedAnswer.model_validate((await http.get(f"/result/{task_id}")).json())
    CancelAnswer.model_validate((await http.delete(f"/tasks/{task_id}")).json())
    expired = await submit(http)
    claim = worker.claim()
    worker.say(claim, "half")
    worker.end(claim, JobStatus.EXPIRED)
    FailedAnswer.model_validate((await http.get(f"/result/{expired}")).json())
