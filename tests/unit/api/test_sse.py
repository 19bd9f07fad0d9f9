from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from api import sse
from api.sse import EventStream, frame

SCOPE: dict[str, Any] = {"type": "http"}


class Frames:
    """Yields frames until it is closed."""

    def __init__(self) -> None:
        self.is_closed = False
        self.error: Exception | None = None

    async def __call__(self, *bodies: bytes) -> AsyncGenerator[bytes, None]:
        try:
            for body in bodies:
                yield body
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.is_closed = True


class Client:
    """Takes what is sent; hangs up when the test says so."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.has_gone = asyncio.Event()
        self.can_read = asyncio.Event()
        self.can_read.set()
        self.got_body = asyncio.Event()

    async def receive(self) -> Any:
        await self.has_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.got_body.set()
            await self.can_read.wait()


def test_a_frame_is_one_line_of_json_whatever_is_in_it() -> None:
    body = frame({"token": 'a\nb\r\u2028"ä\ud800'}, 7)
    first, second, *rest = body.decode().split("\n")
    assert (first, rest) == ("id: 7", ["", ""])
    assert json.loads(second.removeprefix("data: "))["token"].startswith('a\nb\r\u2028"ä')


def test_a_frame_without_a_place_has_no_id() -> None:
    assert frame({"a": 1}) == b'data: {"a":1}\n\n'


async def test_frames_are_freed_as_soon_as_the_client_hangs_up() -> None:
    frames, client = Frames(), Client()
    answering = asyncio.create_task(EventStream(frames(b"one"))(SCOPE, client.receive, client.send))
    await client.got_body.wait()
    client.has_gone.set()
    await answering
    assert frames.is_closed
    assert [m["body"] for m in client.sent[1:]] == [b"one"]


async def test_a_client_that_reads_no_more_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0)
    frames, client = Frames(), Client()
    client.can_read.clear()
    await EventStream(frames(b"one"))(SCOPE, client.receive, client.send)
    assert frames.is_closed


async def test_a_fault_while_streaming_is_not_swallowed() -> None:
    frames, client = Frames(), Client()
    frames.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await EventStream(frames(b"one"))(SCOPE, client.receive, client.send)
    assert frames.is_closed


async def test_the_last_frame_is_followed_by_the_end_of_the_answer() -> None:
    async def one() -> AsyncGenerator[bytes, None]:
        yield b"one"

    client = Client()
    await EventStream(one())(SCOPE, client.receive, client.send)
    start, body, end = client.sent
    assert (start["status"], body["more_body"], end["more_body"]) == (200, True, False)
