"""A gateway in the test's own event loop, on a real Redis server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.gateway import Gateway
from api.main import create_app
from api.server import Server, server
from common.connection import SyncRedis
from common.settings import Settings
from tests.integration.api.support import ALICE, AS_ALICE, BOB, HandWorker

Start = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
def make_settings(tmp_path: Path, redis_url: str) -> Callable[..., Settings]:
    """Settings for a gateway on the test's database; rates that no test reaches by accident."""

    def make(**changes: Any) -> Settings:
        values = {
            "api_keys": [ALICE, BOB],
            "redis_url": redis_url,
            "log_dir": tmp_path / "logs",
            "rate_limit_per_minute": 6000,
            "rate_limit_burst": 1000,
        }
        return Settings(_env_file=None, **(values | changes))

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def worker(client: SyncRedis, settings: Settings) -> HandWorker:
    return HandWorker(client, settings)


@pytest.fixture
async def start_app() -> AsyncIterator[Callable[..., Awaitable[httpx.AsyncClient]]]:
    """Start gateways without a socket; ended with the test."""
    async with AsyncExitStack() as stack:

        async def start(settings: Settings, **options: Any) -> httpx.AsyncClient:
            app = create_app(settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
            # The gateway itself waits for this, but not for ever.
            await app.state.gateway.poller.has_polled.wait()
            transport = httpx.ASGITransport(app, **options)
            http = httpx.AsyncClient(
                transport=transport, base_url="http://baton.test", headers=AS_ALICE
            )
            return await stack.enter_async_context(http)

        yield start


@pytest.fixture
async def http(start_app: Start, settings: Settings) -> httpx.AsyncClient:
    """Alice's client of a gateway without a socket. It cannot stream."""
    return await start_app(settings)


class LiveGateway:
    """A gateway under uvicorn, in the test's event loop."""

    def __init__(self, settings: Settings) -> None:
        self.server: Server = server(settings)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._serving = asyncio.create_task(self.server.serve(sockets=[self._socket]))

    @property
    def gateway(self) -> Gateway:
        app = self.server.config.app
        assert isinstance(app, FastAPI)
        gateway: Gateway = app.state.gateway
        return gateway

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=AS_ALICE, timeout=30, trust_env=False)

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True
        await self._serving


StartLive = Callable[[Settings], LiveGateway]


@pytest.fixture
async def start_live() -> AsyncIterator[StartLive]:
    """Start gateways under uvicorn; ended with the test."""
    started: list[LiveGateway] = []

    def start(settings: Settings) -> LiveGateway:
        started.append(LiveGateway(settings))
        return started[-1]

    yield start
    for gateway in started:
        await gateway.stop()


@pytest.fixture
async def live(start_live: StartLive, settings: Settings) -> LiveGateway:
    return start_live(settings)


@pytest.fixture
async def live_http(live: LiveGateway) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's client of a gateway under uvicorn."""
    async with live.client() as http:
        yield http
