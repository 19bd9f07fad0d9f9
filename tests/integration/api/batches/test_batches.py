"""`/v1/batches`: every line is answered; malformed ones are told by number."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from api.batch_schemas import BatchAnswer, BatchesAnswer
from api.object_store import ObjectStore
from common import keys
from common.connection import SyncRedis
from common.errors import FileStoreError
from common.schemas import JobStatus
from common.settings import Settings
from tests.integration.api.batches.support import (
    EchoWorker,
    create,
    entries,
    line,
    outputs,
    submit,
    until,
    upload,
)
from tests.integration.api.conftest import Start
from tests.integration.api.support import AS_BOB, MODEL, REVISION, HandWorker


async def test_every_line_is_answered_under_its_own_name(
    http: httpx.AsyncClient, answering: EchoWorker
) -> None:
    names = [f"request-{number}" for number in range(1, 41)]

    batch_id = await submit(http, [line(name) for name in names], metadata={"a": "b"})
    batch = await until(http, batch_id, "completed")

    BatchAnswer.model_validate(batch)
    assert batch["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert await outputs(http, batch) == {
        name: f"line {number}" for number, name in enumerate(names, 1)
    }
    assert batch["error_file_id"] is None
    assert batch["metadata"] == {"a": "b"}
    assert batch["usage"]["input_tokens"] == 40 * 3
    [found] = (await http.get("/v1/batches")).json()["data"]
    assert found == batch


async def test_an_answer_is_what_its_endpoint_would_have_answered(
    http: httpx.AsyncClient, answering: EchoWorker
) -> None:
    batch = await until(http, await submit(http, [line("a")]), "completed")

    [entry] = await entries(http, batch["output_file_id"])
    body = entry["response"]["body"]
    assert entry["id"] == entry["response"]["request_id"]
    assert (entry["error"], entry["response"]["status_code"]) == (None, 200)
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_the_jobs_of_a_batch_are_of_the_lowest_class_and_cost_no_rate(
    start_app: Start, settings: Settings, echo: EchoWorker, client: SyncRedis
) -> None:
    http = await start_app(settings.model_copy(update={"rate_limit_burst": 3}))
    lines = [line(str(number), priority="high") for number in range(8)]

    await submit(http, lines)

    async with asyncio.timeout(20):
        while client.zcard(keys.ready(MODEL, "low")) < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_count_that_breaks_off_begins_again(
    http: httpx.AsyncClient, answering: EchoWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(number) for number in range(30)]
    monkeypatch.setattr("api.batches.lines.PIECE_BYTES", 1000)
    read_range, num_reads = ObjectStore.read_range, 0

    async def failing_once(store: ObjectStore, path: str, start: int, length: int) -> bytes:
        nonlocal num_reads
        num_reads += 1
        if num_reads == 3:
            raise FileStoreError("away")
        return await read_range(store, path, start, length)

    monkeypatch.setattr(ObjectStore, "read_range", failing_once)

    batch = await until(http, await submit(http, [line(name) for name in names]), "completed")

    assert batch["request_counts"] == {"total": 30, "completed": 30, "failed": 0}


async def test_malformed_lines_are_told_by_number_and_the_others_are_answered(
    http: httpx.AsyncClient, answering: EchoWorker
) -> None:
    lines = [
        line("good-1"),
        "{not json",
        "",
        line("good-1"),
        line("elsewhere", url="/v1/completions"),
        line("get", method="GET"),
        json.dumps({"method": "POST", "url": "/v1/chat/completions", "body": {}}),
        "[1, 2]",
        "[" * 200 + "]" * 200,
        line("good-2"),
    ]

    batch = await until(http, await submit(http, lines), "completed")

    assert await outputs(http, batch) == {"good-1": "line 1", "good-2": "line 10"}
    assert batch["request_counts"] == {"total": 9, "completed": 2, "failed": 7}
    failed = await entries(http, batch["error_file_id"])
    told = {each["error"]["line"]: each for each in failed if each["error"]}
    assert {number: each["error"]["code"] for number, each in told.items()} == {
        2: "invalid_json_line",
        4: "duplicate_custom_id",
        5: "mismatched_url",
        6: "invalid_line",
        7: "invalid_line",
        8: "invalid_line",
        9: "invalid_json_line",
    }
    assert told[8]["error"]["message"] == "The line must be a JSON object; got [1, 2]."
    assert told[9]["error"]["message"].startswith("The line is nested too deeply: at most 128")
    assert all(each["response"] is None for each in failed)
    assert sorted(error["line"] for error in batch["errors"]["data"]) == sorted(told)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"messages": []}, 400, "invalid_request", "messages"),
        ({"messages": None}, 400, "invalid_request", "messages"),
        ({"temperature": 3}, 400, "invalid_request", "temperature"),
        ({"colour": "red"}, 400, "invalid_request", "colour"),
        ({"stream": True}, 400, "invalid_request", "stream"),
        ({"max_tokens": 10**6}, 400, "context_length_exceeded", "max_tokens"),
        ({"model": "no-such-model"}, 404, "model_not_found", "model"),
        (
            {"model": "auto", "router": "dense_network/example"},
            400,
            "invalid_request",
            "router",
        ),
    ],
)
async def test_a_line_that_its_endpoint_would_refuse_has_the_response_that_it_would_have_had(
    http: httpx.AsyncClient,
    answering: EchoWorker,
    fields: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    lines = [line("good"), line("refused", **fields)]

    batch = await until(http, await submit(http, lines), "completed")

    assert await outputs(http, batch) == {"good": "line 1"}
    [entry] = await entries(http, batch["error_file_id"])
    assert (entry["custom_id"], entry["error"]) == ("refused", None)
    response = entry["response"]
    assert (response["status_code"], response["request_id"]) == (status, entry["id"])
    assert response["body"]["error"]["code"] == code
    assert response["body"]["error"]["param"] == param
    assert batch["errors"] is None


async def test_a_line_whose_job_fails_is_in_the_error_file(
    http: httpx.AsyncClient, worker: HandWorker, echo: EchoWorker
) -> None:
    batch_id = await submit(http, [line("a")])
    async with asyncio.timeout(20):
        while (claim := worker.claims.claim({MODEL: REVISION})) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    worker._texts[claim.record.job_id] = []
    worker.end(claim, JobStatus.FAILED, error=("EngineError", "It broke."))

    batch = await until(http, batch_id, "completed")

    [entry] = await entries(http, batch["error_file_id"])
    assert entry["response"]["status_code"] == 500
    assert entry["response"]["body"]["error"]["message"] == "It broke."


@pytest.mark.parametrize(
    ("lines", "code"),
    [(["", "  "], "empty_file"), ([line("a")] * 4, "too_many_lines")],
)
async def test_a_file_that_cannot_be_a_batch_fails_with_its_reason(
    http: httpx.AsyncClient,
    echo: EchoWorker,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    code: str,
) -> None:
    monkeypatch.setattr("api.batches.driver.MAX_LINES", 3)

    batch = await until(http, await submit(http, lines), "failed")

    [error] = batch["errors"]["data"]
    assert error["code"] == code
    assert batch["output_file_id"] is batch["error_file_id"] is None


async def test_a_cancel_keeps_what_was_answered_and_names_what_was_not(
    http: httpx.AsyncClient, echo: EchoWorker
) -> None:
    names = [str(number) for number in range(1, 31)]
    batch_id = await submit(http, [line(name) for name in names])
    async with asyncio.timeout(20):
        while len(echo.answered) < 5:
            echo.answer_one()
            await asyncio.sleep(0.005)

    cancelling = (await http.post(f"/v1/batches/{batch_id}/cancel")).json()
    batch = await until(http, batch_id, "cancelled")

    assert cancelling["status"] == "cancelling"
    done = set(await outputs(http, batch))
    unrun = await entries(http, batch["error_file_id"])
    assert len(done) == 5
    assert done.isdisjoint(each["custom_id"] for each in unrun)
    assert done | {each["custom_id"] for each in unrun} == set(names)
    assert {each["error"]["code"] for each in unrun} == {"batch_cancelled"}
    again = await http.post(f"/v1/batches/{batch_id}/cancel")
    assert again.json()["status"] == "cancelled"


async def test_what_is_not_answered_within_the_window_expires(
    http: httpx.AsyncClient, echo: EchoWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.batches.WINDOW_MS", -1)

    batch = await until(http, await submit(http, [line("a"), line("b")]), "expired")

    unrun = await entries(http, batch["error_file_id"])
    assert [each["error"]["code"] for each in unrun] == ["batch_expired"] * 2


async def test_a_repeat_under_an_idempotency_key_is_the_same_batch(
    http: httpx.AsyncClient, echo: EchoWorker
) -> None:
    file_id, key = await upload(http, [line("a")]), {"Idempotency-Key": "k1"}

    first = (await create(http, file_id, headers=key)).json()
    second = (await create(http, file_id, headers=key)).json()
    changed = await create(http, file_id, headers=key, metadata={"x": "y"})

    assert first["id"] == second["id"]
    assert len((await http.get("/v1/batches")).json()["data"]) == 1
    assert changed.status_code == 422


async def test_batches_are_listed_page_by_page_newest_first(
    http: httpx.AsyncClient, echo: EchoWorker
) -> None:
    file_id, ids = await upload(http, [line("a")]), []
    for _ in range(3):
        ids.append((await create(http, file_id)).json()["id"])
        await asyncio.sleep(0.002)  # the next millisecond: that is what they are ordered by

    first = (await http.get("/v1/batches", params={"limit": 2})).json()
    rest = (await http.get("/v1/batches", params={"after": first["last_id"]})).json()

    BatchesAnswer.model_validate(first)
    assert [batch["id"] for batch in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_another_keys_batch_is_not_found(http: httpx.AsyncClient, echo: EchoWorker) -> None:
    file_id = await upload(http, [line("a")])
    batch_id = (await create(http, file_id)).json()["id"]

    for call in (
        http.get(f"/v1/batches/{batch_id}", headers=AS_BOB),
        http.post(f"/v1/batches/{batch_id}/cancel", headers=AS_BOB),
        http.get("/v1/batches/batch_1"),
        http.get("/v1/batches", params={"after": batch_id}, headers=AS_BOB),
        create(http, file_id, headers=AS_BOB),
    ):
        assert (await call).status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"colour": "red"}, "colour"),
        ({"input_file_id": 3}, "input_file_id"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await create(http, "file-x", **fields)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_key_may_have_so_many_batches_under_way(
    http: httpx.AsyncClient, echo: EchoWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.batch_store.MOST_UNFINISHED", 2)
    file_id = await upload(http, [line("a")])

    statuses = [(await create(http, file_id)).status_code for _ in range(3)]

    assert statuses == [200, 200, 503]
