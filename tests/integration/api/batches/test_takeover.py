"""A batch whose driver dies, stops, or loses it: each line is answered once all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.batches.driver import BatchDriver
from api.gateway import Gateway
from api.main import create_app
from common import keys
from common.connection import SyncRedis
from common.settings import Settings
from tests.integration.api.batches.support import (
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
from tests.integration.api.support import AS_ALICE, MODEL


class Crash(BaseException):
    """A gateway that dies here."""


def gateway_of(http: httpx.AsyncClient) -> Gateway:
    app: FastAPI = http._transport.app  # type: ignore[attr-defined]
    gateway: Gateway = app.state.gateway
    return gateway


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
