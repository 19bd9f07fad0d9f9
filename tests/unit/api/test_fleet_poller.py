from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from api import fleet_poller
from api.fleet_poller import FleetPoller, Throughput
from common.errors import RedisUnavailableError
from common.fleet import Fleet, FleetReader, ModelState, ServedModel, WorkerInfo
from common.model_card import ModelCard


class Reader:
    """Answers with what the test says."""

    def __init__(self) -> None:
        self.is_away = False
        self.workers: tuple[WorkerInfo, ...] = ()
        self.running = 0
        self.num_tokens = 0
        self.num_ended = 0

    async def snapshot(self, models: Sequence[str]) -> Fleet:
        if self.is_away:
            raise RedisUnavailableError("away")
        counters = {
            "generation_tokens": self.num_tokens,
            "prompt_tokens": 2 * self.num_tokens,
            "jobs:submitted": 1000,
            "jobs:completed": self.num_ended - self.num_ended // 2,
            "jobs:cancelled": self.num_ended // 2,
        }
        return Fleet(self.workers, {}, self.running, counters, 0, None)

    async def cards(self, models: Sequence[str]) -> dict[str, ModelCard]:
        return {}


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


async def test_the_time_of_a_token_follows_littles_law(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    reader.running = 6
    for _ in range(10):
        await poller.poll()
        clock.now_s += 1
        reader.num_tokens += 20
    assert poller.seconds_per_token == 0.3


async def test_without_an_ended_job_the_pace_is_unknown(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    assert poller.seconds_per_token is None
    for _ in range(3):
        await poller.poll()
        clock.now_s += 1
    assert poller.seconds_per_token is None


async def test_only_the_last_minute_counts(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    await poller.poll()
    reader.num_tokens = 1000
    clock.now_s += 61
    await poller.poll()
    assert poller.seconds_per_token is None


async def test_throughput_is_what_ended_between_the_first_look_and_the_last(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    assert poller.throughput is None
    await poller.poll()
    assert poller.throughput is None
    clock.now_s += 4
    reader.num_tokens, reader.num_ended = 100, 6
    await poller.poll()
    assert poller.throughput == Throughput(4.0, 1.5, 50.0, 25.0)


async def test_throughput_is_of_the_last_minute(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    for step in range(90):
        reader.num_tokens += 10 if step < 30 else 20
        await poller.poll()
        clock.now_s += 1
    assert poller.throughput is not None
    assert poller.throughput.window_s == 60
    assert poller.throughput.generation_tokens_per_s == 20


async def test_an_emptied_redis_gives_no_negative_throughput(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    reader.num_tokens = 1000
    await poller.poll()
    clock.now_s += 1
    reader.num_tokens = 5
    await poller.poll()
    assert poller.throughput == Throughput(1.0, 0.0, 0.0, 0.0)


def with_model(state: ModelState) -> WorkerInfo:
    return WorkerInfo("w", "here", 1, "0", "cpu", 1, 0, {"m": ServedModel(state)})


async def test_a_model_that_no_worker_announces_is_absent_since_that_was_seen_first(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    await poller.poll()
    clock.now_s += 30
    await poller.poll()
    clock.now_s += 30
    assert poller.absent_s("m") == 60


async def test_a_model_that_is_loading_is_not_absent(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    await poller.poll()
    reader.workers = (with_model("loading"),)
    await poller.poll()
    clock.now_s += 60
    assert poller.absent_s("m") == 0


async def test_while_redis_is_away_nobody_is_absent(
    poller: FleetPoller, reader: Reader, clock: Clock
) -> None:
    await poller.poll()
    reader.is_away = True
    with pytest.raises(RedisUnavailableError):
        await poller.poll()
    clock.now_s += 60
    assert poller.absent_s("m") == 0


def worker(*models: str, found: tuple[str, ...] | None) -> WorkerInfo:
    served = {model: ServedModel("ready") for model in models}
    return WorkerInfo("w", "h", 1, "1", "cpu", 1, 0, served, found=found)


async def test_models_that_workers_found_are_told_and_looked_at(reader: Reader) -> None:
    told: list[frozenset[str]] = []
    poller = FleetPoller(cast(FleetReader, reader), ["m"], note_found=told.append)  # type: ignore[arg-type]
    reader.workers = (worker("m", "x", found=("x",)), worker("m", found=("y",)))
    await poller.poll()
    assert told == [{"x", "y"}]
    assert poller.absent_s("x") == 0


async def test_while_no_worker_has_looked_what_was_found_before_holds(reader: Reader) -> None:
    told: list[frozenset[str]] = []
    poller = FleetPoller(cast(FleetReader, reader), ["m"], note_found=told.append)  # type: ignore[arg-type]
    for workers in ((worker("m", found=("x",)),), (), (worker("m", found=None),)):
        reader.workers = workers
        await poller.poll()
    assert told == [{"x"}]


async def test_a_model_that_is_found_no_more_is_forgotten(reader: Reader) -> None:
    told: list[frozenset[str]] = []
    poller = FleetPoller(cast(FleetReader, reader), ["m"], note_found=told.append)  # type: ignore[arg-type]
    for found in (("x",), ()):
        reader.workers = (worker("m", found=found),)
        await poller.poll()
    assert told[-1] == frozenset()


def test_what_a_worker_found_survives_its_announcement() -> None:
    for found in (None, (), ("x", "y")):
        assert WorkerInfo.unpack(worker("m", found=found).pack()).found == found
