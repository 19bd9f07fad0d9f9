from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from api import fleet_poller
from api.fleet_poller import FleetPoller
from common.errors import RedisUnavailableError
from common.fleet import Fleet, FleetReader
from common.model_card import ModelCard


class Reader:
    """Answers with what the test says."""

    def __init__(self) -> None:
        self.is_away = False
        self.running = 0
        self.ended = 0

    async def snapshot(self, models: Sequence[str]) -> Fleet:
        if self.is_away:
            raise RedisUnavailableError("away")
        counters = {"jobs:completed": self.ended, "jobs:submitted": 1000}
        return Fleet((), {}, self.running, counters, 0, None)

    async def card(self, model: str) -> ModelCard | None:
        return None


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(fleet_poller, "time", SimpleNamespace(monotonic=lambda: self.now_s))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def poller(reader: Reader) -> FleetPoller:
    return FleetPoller(cast(FleetReader, reader), ["m"])


async def test_a_snapshot_that_is_too_old_counts_as_none(poller: FleetPoller, clock: Clock) -> None:
    assert poller.fleet is None
    await poller.poll()
    assert poller.fleet is not None
    clock.now_s += 4
    assert poller.fleet is None


async def test_what_was_known_is_forgotten_when_redis_goes(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    await poller.poll()
    reader.is_away = True
    with pytest.raises(RedisUnavailableError):
        await poller.poll()
    assert poller.fleet is None


async def test_the_mean_processing_time_follows_littles_law(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    reader.running = 6
    for _ in range(10):
        await poller.poll()
        clock.now_s += 1
        reader.ended += 2
    assert poller.mean_processing_s == 3.0


async def test_without_an_ended_job_the_mean_is_unknown(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    assert poller.mean_processing_s is None
    for _ in range(3):
        await poller.poll()
        clock.now_s += 1
    assert poller.mean_processing_s is None


async def test_only_the_last_minute_counts(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    await poller.poll()
    reader.ended = 1000
    clock.now_s += 61
    await poller.poll()
    assert poller.mean_processing_s is None
