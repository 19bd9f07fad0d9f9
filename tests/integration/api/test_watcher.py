"""What is left of a watcher's connections to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from redis.asyncio.client import PubSub

from api.watcher import Watcher
from common import keys
from common.connection import AsyncRedis, connect_async

JOB = "watched"


class LostWhileSubscribing(PubSub):
    """Loses its connection, once it listens, while a job's channel is being subscribed to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subscribing = asyncio.Event()
        self.lost = asyncio.Event()

    async def subscribe(self, *args: Any, **kwargs: Any) -> Any:
        if args == (keys.bell(JOB),):
            self.subscribing.set()
            await self.lost.wait()
            for _ in range(100):  # whoever closes the connection has the time to
                await asyncio.sleep(0)
        return await super().subscribe(*args, **kwargs)

    async def get_message(self, *args: Any, **kwargs: Any) -> Any:
        await self.subscribing.wait()
        self.lost.set()
        raise redis.ConnectionError("the server has gone")


class OnceLost:
    """A client whose first subscriber loses its connection."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client
        self._make: type[PubSub] = LostWhileSubscribing
        self.subscribes_again = asyncio.Event()

    def pubsub(self) -> PubSub:
        make, self._make = self._make, PubSub
        if make is PubSub:
            self.subscribes_again.set()
        return make(self._client.connection_pool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[AsyncRedis]:
    async with connect_async(redis_url) as client:
        yield client


async def test_a_connection_lost_in_the_middle_of_a_subscription_leaves_one_subscriber(
    redis_client: AsyncRedis,
) -> None:
    client: Any = OnceLost(redis_client)
    watcher = Watcher(client)
    running = asyncio.create_task(watcher.run())
    try:
        await until_subscribed(redis_client)
        assert not await watcher.wait_for_end(JOB, 0.01)
        await asyncio.wait_for(client.subscribes_again.wait(), 20)
        await until_subscribed(redis_client)
        subscribers = await redis_client.client_list(_type="pubsub")
        assert len(subscribers) == 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until_subscribed(client: AsyncRedis) -> None:
    async with asyncio.timeout(20):
        while True:
            if await client.pubsub_channels(keys.bell("-")):
                return
            await asyncio.sleep(0.01)
