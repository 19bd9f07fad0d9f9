"""Background tasks that live as long as the gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

RESTART_S = 1.0
REPEAT_S = 0.1

_log = logging.getLogger(__name__)


async def forever(step: Callable[[], Awaitable[None]]) -> None:
    """Call a step again and again; one that raises is logged, and repeated a second later.

    Nothing else would notice a background task that has died: the gateway would go on answering
    from what it knew then.
    """
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - whatever it is, it is logged
            _log.exception("a background task failed and starts again")
            await asyncio.sleep(RESTART_S)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: up to Python 3.11, `asyncio.wait_for` loses a cancellation that comes
    together with its result, and the Redis client sends every command inside it.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=REPEAT_S)
