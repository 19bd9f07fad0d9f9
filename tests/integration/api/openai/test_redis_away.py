from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, InternalServerError

from common import keys
from common.connection import SyncRedis, connect
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway
from tests.integration.api.openai.support import HELLO, MODEL, TextWorker
from tests.integration.api.support import ALICE, eventually
from tests.redis_server import RedisServer


@pytest.fixture
def settings(own_redis: RedisServer, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, api_keys=[ALICE], redis_url=own_redis.url, log_dir=tmp_path / "logs"
    )


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[SyncRedis]:
    with connect(own_redis.url) as client:
        yield client


async def test_while_redis_is_away_a_call_is_503_in_openais_shape(
    openai: AsyncOpenAI, live: LiveGateway, own_redis: RedisServer
) -> None:
    await openai.models.list()
    own_redis.kill()
    with pytest.raises(InternalServerError) as raised:
        await openai.chat.completions.create(model=MODEL, messages=HELLO)
    assert raised.value.status_code == 503
    assert raised.value.code == "redis_unavailable"
    assert int(raised.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_outlives_redis_going_away_and_coming_back(
    openai: AsyncOpenAI,
    worker: TextWorker,
    own_redis: RedisServer,
    client: SyncRedis,
    stream: bool,
) -> None:
    async def ask() -> str:
        if not stream:
            answer = await openai.chat.completions.create(model=MODEL, messages=HELLO)
            return answer.choices[0].message.content or ""
        text = ""
        chunks = await openai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
        return text

    asking = asyncio.create_task(ask())
    claim = await worker.next()
    worker.tell(claim, "Once ")
    bell = keys.bell(claim.record.job_id)
    await eventually(lambda: client.pubsub_numsub(bell) == [(bell, 1)])
    own_redis.kill()
    own_redis.start()
    worker.tell(claim, "more")
    worker.finish(claim)
    assert await asking == "Once more"
