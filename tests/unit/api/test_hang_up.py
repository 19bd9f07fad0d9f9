from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.hang_up import ClientGoneError, until_hang_up


class Client:
    """Of which the server hears nothing, until it hangs up."""

    def __init__(self) -> None:
        self.has_gone = asyncio.Event()

    async def receive(self) -> Any:
        await self.has_gone.wait()
        return {"type": "http.disconnect"}


async def test_the_outcome_of_the_work_is_returned() -> None:
    async def work() -> int:
        return 7

    assert await until_hang_up(Client().receive, work()) == 7


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await until_hang_up(Client().receive, work())


async def test_the_work_is_cancelled_where_the_client_hangs_up() -> None:
    client, cancelled = Client(), asyncio.Event()

    async def work() -> None:
        client.has_gone.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ClientGoneError):
        await until_hang_up(client.receive, work())
    assert cancelled.is_set()
