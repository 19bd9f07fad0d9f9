"""Drives batches in this gateway: as many as it may, of those that nobody else drives."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from api.background import end, forever
from api.batches.driver import BatchDriver, Tools
from common.batch_store import BatchLostError
from common.errors import RedisUnavailableError

MOST_DRIVEN = 8
LOOK_S = 1.0

_log = logging.getLogger(__name__)


class BatchRunner:
    """Takes batches and drives each to its end."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._drivers: dict[asyncio.Task[None], BatchDriver] = {}

    async def run(self) -> None:
        """Drive until cancelled; what is not done then is another gateway's."""
        try:
            await forever(self._look)
        finally:
            await end(*self._drivers)
            for driver in self._drivers.values():
                with suppress(BatchLostError, RedisUnavailableError):
                    await driver.release()

    async def _look(self) -> None:
        for task in [task for task in self._drivers if task.done()]:
            del self._drivers[task]
            if task.exception() is not None:
                # Its lease will pass, and then somebody tries again.
                _log.error("the driver of a batch failed", exc_info=task.exception())
        if len(self._drivers) < MOST_DRIVEN and await self._take():
            return
        await asyncio.sleep(LOOK_S)

    async def _take(self) -> bool:
        try:
            taken = await self._tools.batches.take()
        except RedisUnavailableError:
            return False
        if taken is None:
            return False
        driver = BatchDriver(self._tools, taken)
        self._drivers[asyncio.create_task(driver.run())] = driver
        return True
