"""A TCP proxy that can break: it stands between one process and Redis, and plays the network.

Knows nothing about Redis's protocol. While it is black-holed, what was sent waits in the sockets
and is delivered when the network is back, as TCP does by sending again: also that of a client that
has given up meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from enum import StrEnum

CHUNK = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Network(StrEnum):
    """What becomes of bytes and connections."""

    UP = "up"
    REFUSED = "refused"
    """Connections are reset, new ones too."""
    BLACK_HOLED = "black-holed"
    """Nothing arrives, in either direction, and nothing breaks."""
    REPLIES_LOST = "replies lost"
    """Redis gets everything, and no answer comes back."""


class Proxy:
    """Forwards a port of its own to another one.

    Args:
        port: To listen on.
        upstream_port: Of the server behind it. Both on 127.0.0.1.
    """

    def __init__(self, port: int, upstream_port: int) -> None:
        self.port = port
        self.network = Network.UP
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._set(Network.UP)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self._reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def change(self, network: Network) -> None:
        """Break the network, or mend it.

        Connections over which answers were lost are reset when this ends: bytes of a stream that
        are missing in its middle cannot happen with TCP.
        """
        had_losses = self.network is Network.REPLIES_LOST
        self._set(network)
        if network is Network.REFUSED or had_losses:
            self._reset_all()

    def _set(self, network: Network) -> None:
        self.network = network
        if network is Network.BLACK_HOLED:
            self._flowing.clear()
        else:
            self._flowing.set()

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        if self.network is Network.REFUSED:
            link.reset()
            return
        self._links.add(link)
        try:
            await self._flowing.wait()
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            link.add(upstream[1])
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream[1], to_server=True))
                group.create_task(self._pump(upstream[0], writer, to_server=False))
        except* OSError:
            pass  # either side has gone; so does the other
        finally:
            self._links.discard(link)
            link.reset()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_server: bool
    ) -> None:
        while chunk := await source.read(CHUNK):
            await self._flowing.wait()
            if not to_server and self.network is Network.REPLIES_LOST:
                continue
            sink.write(chunk)
            await sink.drain()
        await self._flowing.wait()
        if to_server:
            # What it had sent before it closed still arrives; then the server closes too.
            with contextlib.suppress(OSError):
                sink.write_eof()
        else:
            raise ConnectionResetError("the server closed the connection")


class _Link:
    """The two sockets of one forwarded connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._writers = [client]
        self._is_reset = False

    def add(self, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._is_reset:  # while it was being opened
            self.reset()

    def reset(self) -> None:
        self._is_reset = True
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
