"""A client that hangs up, noticed while its answer is worked out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from api.background import end

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client has hung up; nobody is there to be answered."""


async def until_hang_up(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of some work, which is cancelled where the client hangs up.

    Args:
        receive: The request's, whose body has been read.
        work: What the client waits for.

    Raises:
        ClientGoneError: The client has hung up.
    """
    working, waiting = asyncio.create_task(work), asyncio.create_task(hang_up(receive))
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        is_done = working.done()
        await end(working, waiting)
    if not is_done:
        raise ClientGoneError
    return working.result()


async def hang_up(receive: Receive) -> None:
    """Wait until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
