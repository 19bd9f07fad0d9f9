"""A body over the limit is refused, once the client has had the time to send some of it."""

import asyncio

import pytest

from api import middleware
from api.middleware import MOST_DROPPED_BYTES, BodyLimit
from api.upload import MAX_BODY_BYTES

PIECE = b"x" * 65536


class Client:
    """Sends a body in pieces, and keeps what is answered."""

    def __init__(self, num_pieces: int, **headers: str) -> None:
        self.left = num_pieces
        self.num_read = 0
        self.answers: list[dict] = []
        pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
        self.scope = {"type": "http", "method": "POST", "path": "/generate", "headers": pairs}
        self.scope["state"] = {"request_id": "1"}

    async def receive(self) -> dict:
        assert self.left, "there is nothing more to read"
        self.left -= 1
        self.num_read += 1
        return {"type": "http.request", "body": PIECE, "more_body": self.left > 0}

    async def send(self, message: dict) -> None:
        self.answers.append(message)

    async def ask(self) -> None:
        async def never(*_: object) -> None:
            pytest.fail("it reached the route")

        await BodyLimit(never)(self.scope, self.receive, self.send)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.answers[0]["headers"])


async def test_who_is_still_sending_gets_the_answer_at_the_end() -> None:
    client = Client(40, content_length=str(40 * len(PIECE)))
    await client.ask()
    assert client.left == 0
    assert client.answers[0]["status"] == 413
    assert client.headers[b"connection"] == b"close"


async def test_no_more_than_a_bounded_part_is_read() -> None:
    client = Client(10_000, content_length=str(10_000 * len(PIECE)))
    await client.ask()
    assert client.num_read == MOST_DROPPED_BYTES // len(PIECE)
    assert client.answers[0]["status"] == 413


async def test_who_waits_for_leave_to_send_is_answered_at_once() -> None:
    client = Client(40, content_length=str(40 * len(PIECE)), expect="100-continue")
    await client.ask()
    assert client.num_read == 0
    assert client.answers[0]["status"] == 413


async def test_who_sends_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MOST_DROPPING_S", 0.01)
    client = Client(1, content_length=str(2 * MAX_BODY_BYTES))

    async def wait() -> dict:
        await asyncio.Event().wait()
        raise AssertionError

    client.receive = wait
    await client.ask()
    assert client.answers[0]["status"] == 413
