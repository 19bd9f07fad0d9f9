"""What operators are warned about, on real Redis servers that are set up wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.gateway import Gateway
from common import durability
from common.connection import AsyncRedis, SyncRedis, connect, connect_async
from common.durability import EVICTS, NO_APPEND_ONLY_FILE, WRITE_FAILED, DurabilityCheck
from common.fleet import FleetReader
from common.settings import Settings
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess

EVICTS_LRU = EVICTS.format(policy="allkeys-lru")


class Told(logging.Handler):
    """What has been logged, and a wait for the next warning."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.debug: list[str] = []
        self._came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        (self.warnings if is_warning else self.debug).append(record.getMessage())
        self._came.set()

    async def wait_for(self, *expected: str) -> None:
        """Wait until these have been told, and nothing else."""
        async with asyncio.timeout(20):
            while sorted(self.warnings) != sorted(expected):
                self._came.clear()
                await self._came.wait()
        self.warnings.clear()


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    durability.log.addHandler(told)
    durability.log.setLevel(logging.DEBUG)
    yield told
    durability.log.removeHandler(told)
    durability.log.setLevel(logging.NOTSET)


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[SyncRedis]:
    with connect(own_redis.url) as client:
        yield client


@pytest.fixture
async def aclient(own_redis: RedisServer) -> AsyncIterator[AsyncRedis]:
    client = connect_async(own_redis.url)
    yield client
    await client.aclose()


def configure(client: SyncRedis, **values: Any) -> None:
    for name, value in values.items():
        client.config_set(name.replace("_", "-"), value)


def test_a_server_that_keeps_everything_is_not_warned_about(client: SyncRedis, told: Told) -> None:
    configure(client, maxmemory="100mb")
    DurabilityCheck().check(client)
    assert told.warnings == []


@pytest.mark.parametrize(
    ("wrong", "warning"),
    [
        ({"appendonly": "no"}, NO_APPEND_ONLY_FILE),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, EVICTS_LRU),
    ],
)
def test_a_server_that_may_lose_jobs_is_warned_about_once(
    client: SyncRedis, told: Told, wrong: dict[str, str], warning: str
) -> None:
    configure(client, **wrong)
    check = DurabilityCheck()
    check.check(client)
    check.check(client)
    assert told.warnings == [warning]


def test_a_policy_that_never_takes_effect_is_not_warned_about(
    client: SyncRedis, told: Told
) -> None:
    configure(client, maxmemory=0, maxmemory_policy="allkeys-lru")
    DurabilityCheck().check(client)
    assert told.warnings == []


def test_a_file_that_cannot_be_written_is_warned_about_each_time_that_it_happens(
    client: SyncRedis, told: Told, own_redis: RedisServer
) -> None:
    check = DurabilityCheck()
    for _ in range(2):
        own_redis.fill_disk()
        client.set("key", "this write is what fails")
        check.check(client)
        own_redis.free_disk()
        while client.info("persistence")["aof_last_write_status"] != "ok":
            pass  # it tries again by itself
        check.check(client)
    assert told.warnings == [WRITE_FAILED, WRITE_FAILED]


async def test_a_gateway_sees_its_fleet_also_where_info_is_refused(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-info")
    fleet = await FleetReader(aclient).snapshot(["m"])
    client.execute_command("ACL", "SETUSER", "default", "+info")
    assert (fleet.queued, fleet.memory_used, fleet.memory_limit) == ({"m": 0}, 0, None)


def test_a_server_that_refuses_info_is_passed_over(client: SyncRedis, told: Told) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-info")
    DurabilityCheck().check(client)
    client.execute_command("ACL", "SETUSER", "default", "+info")
    assert told.warnings == []
    assert ["permission" in line for line in told.debug] == [True]


def test_a_server_that_is_away_is_passed_over(
    client: SyncRedis, told: Told, own_redis: RedisServer
) -> None:
    own_redis.kill()
    DurabilityCheck().check(client)
    assert told.warnings == []


async def test_a_gateway_warns_at_its_first_contact_and_of_every_other_server(
    client: SyncRedis, told: Told, own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.stop()
    settings = Settings(_env_file=None, redis_url=own_redis.url, log_dir=tmp_path)
    async with Gateway.build(settings).running():
        own_redis.start(appendonly="no")
        await told.wait_for(NO_APPEND_ONLY_FILE)
        own_redis.kill()
        own_redis.start(appendonly="no", maxmemory="100mb", maxmemory_policy="allkeys-lru")
        await told.wait_for(NO_APPEND_ONLY_FILE, EVICTS_LRU)


def test_a_worker_warns_at_its_start(
    client: SyncRedis, own_redis: RedisServer, tmp_path: Path
) -> None:
    configure(client, maxmemory="100mb", maxmemory_policy="allkeys-lru")
    worker = WorkerProcess(own_redis.url, tmp_path)
    worker.wait_until_ready()
    worker.stop()
    assert sum(EVICTS_LRU in line for line in worker.output) == 1


async def test_both_clients_ask_the_same(
    client: SyncRedis, aclient: AsyncRedis, told: Told
) -> None:
    configure(client, appendonly="no")
    await DurabilityCheck().acheck(aclient)
    assert told.warnings == [NO_APPEND_ONLY_FILE]
