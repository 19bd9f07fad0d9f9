"""The proxy: what it does to the bytes and connections of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress

import pytest

from tests.chaos.proxy import Network, Proxy
from tests.ports import free_ports

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[Proxy], Awaitable[Connection]]
PATIENCE_S = 10.0


class EchoServer:
    """Answers every line with itself, and remembers what came."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while line := await reader.readline():
                self.heard.put_nowait(line)
                writer.write(line)
                await writer.drain()


@pytest.fixture
async def echo() -> AsyncIterator[EchoServer]:
    [port] = free_ports(1)
    echo = EchoServer(port)
    await echo.start()
    yield echo
    await echo.stop()


@pytest.fixture
async def proxy(echo: EchoServer) -> AsyncIterator[Proxy]:
    [port] = free_ports(1)
    proxy = Proxy(port, echo.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to a proxy; closed after the test."""
    writers = []

    async def connected(proxy: Proxy) -> Connection:
        connection = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(connection[1])
        return connection

    yield connected
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(connection: Connection, line: bytes) -> bytes:
    connection[1].write(line)
    async with asyncio.timeout(PATIENCE_S):
        return await connection[0].readline()


async def read_from(connection: Connection) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await connection[0].read(1)


async def assert_silent(connection: Connection) -> None:
    # A silence has no end that could be awaited.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection[0].read(1)


async def test_bytes_go_both_ways(connect: Connect, proxy: Proxy) -> None:
    first, second = await connect(proxy), await connect(proxy)
    assert await ask(first, b"one\n") == b"one\n"
    assert await ask(second, b"two\n") == b"two\n"
    assert proxy.num_connections == 2


async def test_refused_resets_what_is_open_and_what_is_new(connect: Connect, proxy: Proxy) -> None:
    opened = await connect(proxy)
    assert await ask(opened, b"one\n") == b"one\n"
    proxy.change(Network.REFUSED)
    with pytest.raises(ConnectionResetError):
        await read_from(opened)
    with pytest.raises(ConnectionResetError):
        await read_from(await connect(proxy))
    proxy.change(Network.UP)
    assert await ask(await connect(proxy), b"two\n") == b"two\n"


async def test_a_black_hole_breaks_nothing_and_delivers_when_it_is_over(
    connect: Connect, proxy: Proxy, echo: EchoServer
) -> None:
    opened = await connect(proxy)
    assert await ask(opened, b"one\n") == b"one\n"
    echo.heard.get_nowait()
    proxy.change(Network.BLACK_HOLED)
    fresh = await connect(proxy)
    opened[1].write(b"two\n")
    fresh[1].write(b"three\n")
    await assert_silent(opened)
    await assert_silent(fresh)
    assert echo.heard.empty()
    proxy.change(Network.UP)
    async with asyncio.timeout(PATIENCE_S):
        assert await opened[0].readline() == b"two\n"
        assert await fresh[0].readline() == b"three\n"


async def test_what_a_client_sent_into_a_black_hole_arrives_though_it_has_given_up(
    connect: Connect, proxy: Proxy, echo: EchoServer
) -> None:
    opened = await connect(proxy)
    assert await ask(opened, b"one\n") == b"one\n"
    proxy.change(Network.BLACK_HOLED)
    opened[1].write(b"two\n")
    await opened[1].drain()
    opened[1].close()
    proxy.change(Network.UP)
    async with asyncio.timeout(PATIENCE_S):
        assert [await echo.heard.get(), await echo.heard.get()] == [b"one\n", b"two\n"]


async def test_a_request_whose_reply_is_lost_arrives_and_its_connection_is_reset_later(
    connect: Connect, proxy: Proxy, echo: EchoServer
) -> None:
    opened = await connect(proxy)
    proxy.change(Network.REPLIES_LOST)
    opened[1].write(b"one\n")
    async with asyncio.timeout(PATIENCE_S):
        assert await echo.heard.get() == b"one\n"
    await assert_silent(opened)
    proxy.change(Network.UP)
    with pytest.raises(ConnectionResetError):
        await read_from(opened)


async def test_the_servers_end_is_the_clients_end(
    connect: Connect, proxy: Proxy, echo: EchoServer
) -> None:
    opened = await connect(proxy)
    assert await ask(opened, b"one\n") == b"one\n"
    opened[1].write_eof()  # the server closes when it has read everything
    with pytest.raises(ConnectionResetError):
        await read_from(opened)


async def test_a_server_that_is_not_there_breaks_the_connection(
    connect: Connect, proxy: Proxy, echo: EchoServer
) -> None:
    [nobody] = free_ports(1)
    [port] = free_ports(1)
    lonely = Proxy(port, nobody)
    await lonely.start()
    with pytest.raises(ConnectionResetError):
        await read_from(await connect(lonely))
    await lonely.stop()
