"""`/v1/batches`: every line is answered once, whoever dies; malformed ones are told by number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.batch_schemas import BatchAnswer, BatchesAnswer
from api.batches.driver import BatchDriver
from api.batches.runner import BatchRunner
from api.gateway import Gateway
from api.main import create_app
from common import keys
from common.connection import SyncRedis
from common.schemas import JobStatus
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.batch_support import (
    EchoWorker,
    create,
    entries,
    get,
    line,
    outputs,
    submit,
    until,
    upload,
)
from tests.integration.api.conftest import Start
from tests.integration.api.support import AS_ALICE, AS_BOB, MODEL, REVISION, HandWorker


class Crash(BaseException):
    """A gateway that dies here."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.batches.driver.POLL_S", 0.005)
    monkeypatch.setattr("api.batches.driver.RETRY_S", 0.01)
    monkeypatch.setattr("api.batches.runner.LOOK_S", 0.01)
    monkeypatch.setattr("api.batches.parts.FIRST_PAUSE_S", 0.01)


@pytest.fixture
def settings(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(data_dir=tmp_path / "data", lease_s=30)


@pytest.fixture
def echo(client: SyncRedis, settings: Settings, worker: HandWorker) -> EchoWorker:
    worker.publish(fake_card(MODEL))
    return EchoWorker(client, settings)


@pytest.fixture
async def answering(echo: EchoWorker) -> AsyncIterator[EchoWorker]:
    async with echo.working():
        yield echo


@pytest.fixture
def undriven(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gateway drives batches by itself. To be asked for before a gateway is."""

    async def idle(runner: BatchRunner) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(BatchRunner, "_look", idle)


def gateway_of(http: httpx.AsyncClient) -> Gateway:
    app: FastAPI = http._transport.app  # type: ignore[attr-defined]
    gateway: Gateway = app.state.gateway
    return gateway


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
        line("streamed", stream=True),
        line("hot", temperature=3),
        line("unknown", colour="red"),
        json.dumps({"method": "POST", "url": "/v1/chat/completions", "body": {}}),
        "[1, 2]",
        line("nobody", model="no-such-model"),
        line("good-2"),
    ]

    batch = await until(http, await submit(http, lines), "completed")

    assert await outputs(http, batch) == {"good-1": "line 1", "good-2": "line 13"}
    assert batch["request_counts"] == {"total": 12, "completed": 2, "failed": 10}
    failed = await entries(http, batch["error_file_id"])
    told = {each["error"]["line"]: each for each in failed if each["error"]}
    assert {number: each["error"]["code"] for number, each in told.items()} == {
        2: "invalid_json_line",
        4: "duplicate_custom_id",
        5: "mismatched_url",
        6: "invalid_line",
        7: "invalid_request",
        8: "invalid_request",
        9: "invalid_request",
        10: "invalid_line",
        11: "invalid_line",
    }
    assert told[8]["error"]["param"] == "temperature"
    assert told[8]["custom_id"] == "hot"
    assert told[9]["error"]["param"] == "colour"
    [refused] = [each for each in failed if each["response"]]
    assert refused["custom_id"] == "nobody"
    assert refused["response"]["status_code"] == 404
    assert refused["response"]["body"]["error"]["code"] == "model_not_found"
    assert sorted(error["line"] for error in batch["errors"]["data"]) == sorted(told)


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


class Crashing:
    """Kills the driver at a chosen call into Redis or the store of files, before or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gateway: Gateway, crash_at: int) -> None:
        self.calls = 0
        self._crash_at = crash_at
        for owner, name in (
            (gateway.batches, "write"),
            (gateway.submitter, "submit"),
            (gateway.files.store, "put"),
            (gateway.files.records, "add"),
            (gateway.files.store, "delete"),
        ):
            monkeypatch.setattr(owner, name, self._crashing(getattr(owner, name)))

    def _crashing(self, call: Any) -> Any:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            answer = await call(*args, **kwargs)
            self._tick()
            return answer

        return wrapped

    def _tick(self) -> None:
        self.calls += 1
        if self.calls == self._crash_at:
            raise Crash


async def test_wherever_its_driver_dies_each_line_is_answered_once(
    undriven: None,
    http: httpx.AsyncClient,
    answering: EchoWorker,
    monkeypatch: pytest.MonkeyPatch,
    client: SyncRedis,
) -> None:
    gateway = gateway_of(http)
    monkeypatch.setattr("api.batches.driver.LEAST_WINDOW", 3)
    lines = [*(line(str(n)) for n in range(1, 6)), "{", line("2"), line("8")]
    file_id = await upload(http, lines)
    crash_at, has_crashed = 0, True
    while has_crashed:
        crash_at += 1
        batch_id = (await create(http, file_id)).json()["id"]
        with monkeypatch.context() as patch:
            Crashing(patch, gateway, crash_at)
            taken = await gateway.batches.take()
            assert taken is not None
            driver = BatchDriver(gateway.batch_runner._tools, taken)
            try:
                await driver.run()
                has_crashed = False
            except Crash:
                client.zadd(keys.BATCH_LEASES, {batch_id: 0}, xx=True)  # its lease passes
        if has_crashed:
            again = await gateway.batches.take()
            if again is not None:
                await BatchDriver(gateway.batch_runner._tools, again).run()

        batch = await get(http, batch_id)
        assert batch["status"] == "completed", crash_at
        done = await outputs(http, batch)
        assert done == {str(n): f"line {n}" for n in (1, 2, 3, 4, 5, 8)}, crash_at
        failed = await entries(http, batch["error_file_id"])
        assert sorted(each["error"]["line"] for each in failed) == [6, 7], crash_at
        assert batch["request_counts"] == {"total": 8, "completed": 6, "failed": 2}, crash_at
    assert len(answering.answered) == len(set(answering.answered)) == 6 * crash_at
    assert crash_at > 20


async def test_a_driver_that_lost_its_batch_writes_nothing_more(
    undriven: None, http: httpx.AsyncClient, echo: EchoWorker, client: SyncRedis
) -> None:
    gateway = gateway_of(http)
    batch_id = await submit(http, [line("a")])
    taken = await gateway.batches.take()
    assert taken is not None
    client.zadd(keys.BATCH_LEASES, {batch_id: 0})
    other = await gateway.batches.take()
    assert other is not None

    await BatchDriver(gateway.batch_runner._tools, taken).run()  # ends by itself

    assert (await get(http, batch_id))["status"] == "validating"
    assert client.zcard(keys.ready(MODEL, "low")) == 0


async def test_a_gateway_that_stops_hands_its_batches_on_at_once(
    settings: Settings, echo: EchoWorker
) -> None:
    async with started(settings) as http:
        batch_id = await submit(http, [line(str(n)) for n in range(20)])
        await until(http, batch_id, "in_progress")

    async with started(settings) as http, echo.working():
        batch = await until(http, batch_id, "completed")  # the lease would be half a minute

        assert len(await outputs(http, batch)) == 20


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://baton.test", headers=AS_ALICE
        ) as http,
    ):
        yield http


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
