"""A gateway that drives batches quickly, and a worker that answers their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.batches.runner import BatchRunner
from common.connection import SyncRedis
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.batches.support import (
    EchoWorker,
)
from tests.integration.api.support import MODEL, HandWorker


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
