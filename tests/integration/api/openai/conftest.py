"""A gateway under uvicorn with a model that is announced, and OpenAI's client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from common.connection import SyncRedis
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway
from tests.integration.api.openai.support import CARD, TextWorker, openai_client


@pytest.fixture
def worker(client: SyncRedis, settings: Settings) -> TextWorker:
    """A worker that has loaded the model."""
    worker = TextWorker(client, settings)
    worker.publish(CARD)
    worker.announce()
    return worker


@pytest.fixture
async def openai(worker: TextWorker, live: LiveGateway) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(live.url) as client:
        yield client
