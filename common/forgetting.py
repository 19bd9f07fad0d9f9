"""Forgetting an answer at its owner's wish, before its time has passed.

Knows nothing about how a job ends: a job that still runs is cancelled by whoever calls this.
"""

from __future__ import annotations

from typing import Any, cast

from common import keys
from common.connection import AsyncRedis, translated_errors
from common.schemas import JobRecord


class Forgetting:
    """Drops what is kept of answers."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client

    async def forget(self, record: JobRecord) -> None:
        """Drop a job's `reply`, and all of the job where it has ended; its tombstone stays.

        Args:
            record: As it was read just now. A final state never changes, so nothing is dropped of a
                job that runs.

        Raises:
            RedisUnavailableError: Redis is away; repeat the call.
        """
        with translated_errors():
            if record.status.is_final:
                job, events = keys.job(record.job_id), keys.events(record.job_id)
                await cast(Any, self._client.unlink(job, events))
            else:
                # Never makes a record anew, should this one have passed.
                await cast(Any, self._client.hdel(keys.job(record.job_id), "reply"))
