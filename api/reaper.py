"""The gateway's reaper: jobs of lost hosts go back in line also while no worker is alive."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from api.background import forever
from common.errors import RedisUnavailableError
from common.job_store import Submissions
from common.reaping import AsyncReaping
from common.request_log import OnEnd, outcome_of

_log = logging.getLogger(__name__)


class Reaper:
    """Takes back jobs whose lease has passed, once a period, beside all others that do.

    Args:
        on_end: Called once for each job that this reaper has ended.
    """

    def __init__(self, reaping: AsyncReaping, jobs: Submissions, on_end: OnEnd) -> None:
        self._reaping = reaping
        self._jobs = jobs
        self._on_end = on_end

    async def run(self) -> None:
        """Reap until cancelled."""
        await forever(self._reap_and_rest)

    async def _reap_and_rest(self) -> None:
        with suppress(RedisUnavailableError):
            await self._reap()
        await asyncio.sleep(self._reaping.period_s)

    async def _reap(self) -> None:
        reaped = await self._reaping.reap()
        for job_id in reaped.requeued:
            _log.warning("Took back a job whose worker is gone", extra={"task_id": job_id})
        for job_id in reaped.ended:
            record = await self._jobs.find(job_id)
            if record is not None:
                _log.warning("Ended a job as %s", record.status, extra={"task_id": job_id})
                self._on_end(record, outcome_of(record))
