"""Fixtures on a real Redis server: one server a session, emptied before each test.

After each test, everything that it left in Redis has to obey the invariants: as it stands, and once
more after a reaper has had its turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import redis

from common.connection import AsyncRedis, SyncRedis, connect, connect_async
from common.errors import RedisUnavailableError
from common.invariants import Kind, Violation, check_invariants
from common.invariants.permit_supply import NUM_REAPS
from common.reaping import Reaping
from common.settings import Settings
from tests.integration.stores import Bench
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database on the session's server, checked when all who use it have ended."""
    with redis.Redis.from_url(shared_redis.url) as client:
        client.flushall()
    yield shared_redis.url
    fail_on_violations(request, shared_redis.url)


@pytest.fixture
def own_redis(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RedisServer]:
    """A server of this test's own, to kill and to start again; checked where it still runs."""
    server = RedisServer(tmp_path_factory.mktemp("own-redis"))
    server.start()
    yield server
    try:
        with suppress(RedisUnavailableError):
            fail_on_violations(request, server.url)
    finally:
        server.stop()


def fail_on_violations(request: pytest.FixtureRequest, url: str) -> None:
    """Fail the test that has left a broken invariant, but for those of its `leaves_debris` mark."""
    marker = request.node.get_closest_marker("leaves_debris")
    expected = set(marker.args[1:]) if marker else set()
    assert expected <= set(Kind), f"leaves_debris names no such kind: {expected - set(Kind)}"
    # Some tests take permits away, and no reaper has seen it yet.
    found = violations(url, expected | {Kind.MISSING_PERMITS})
    reap(url)
    found += violations(url, expected)
    if found:
        lines = "\n  ".join(dict.fromkeys(map(str, found)))
        pytest.fail(f"the test has left broken invariants in Redis:\n  {lines}", pytrace=False)


def violations(url: str, expected: set[str]) -> list[Violation]:
    return [found for found in check_invariants(url) if found.kind not in expected]


def reap(url: str) -> None:
    """What reapers do within a few periods: one call adds so many permits at most."""
    with connect(url) as client:
        for _ in range(NUM_REAPS):
            Reaping(client, Settings()).reap()


@pytest.fixture
def client(redis_url: str) -> Iterator[SyncRedis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
async def aclient(redis_url: str) -> AsyncIterator[AsyncRedis]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def bench(client: SyncRedis, aclient: AsyncRedis) -> Bench:
    return Bench(client, aclient)
