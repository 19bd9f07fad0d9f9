"""Which jobs a client waits for, over all gateways.

Only of jobs with an idempotency key: a client that has gone may come back for them, at any gateway,
so that none of these can tell by itself whether anybody still waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from common import keys
from common.connection import AsyncRedis, translated_errors


class WaitedJobs:
    """Marks that pass by themselves, `keys.WAITED_TTL_S` after they were last renewed."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client

    async def mark(self, job_ids: Sequence[str]) -> None:
        """Say that a client waits for these jobs, or did until now.

        Raises:
            RedisUnavailableError: Redis is away; repeat the call.
        """
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.set(keys.waited(job_id), 1, ex=keys.WAITED_TTL_S)
            await pipe.execute()

    async def remaining_s(self, job_id: str) -> float:
        """Seconds until a job's mark passes, if nobody renews it; 0 where it has passed.

        Raises:
            RedisUnavailableError: Redis is away; repeat the call.
        """
        with translated_errors():
            remaining_ms = await cast(Any, self._client.pttl(keys.waited(job_id)))
        return max(0, int(remaining_ms)) / 1000
