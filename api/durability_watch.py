"""Warns of a Redis that may lose jobs: at the first contact, and when it has become such a one.

A failover, or a restart with another configuration, happens while the gateway runs.
"""

from __future__ import annotations

import asyncio

from api.background import forever
from common.connection import AsyncRedis
from common.durability import DurabilityCheck

PERIOD_S = 5.0


class DurabilityWatch:
    """Looks every `PERIOD_S`."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client
        self._check = DurabilityCheck()

    async def run(self) -> None:
        """Look until cancelled."""
        await forever(self._look_and_rest)

    async def _look_and_rest(self) -> None:
        await self._check.acheck(self._client)
        await asyncio.sleep(PERIOD_S)
