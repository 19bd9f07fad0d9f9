"""Cancelling a job on behalf of its owner, with the log line that its worker would have written."""

from __future__ import annotations

from common.errors import RedisUnavailableError
from common.job_store import Submissions
from common.request_log import OnEnd, outcome_of
from common.schemas import JobStatus


class Canceller:
    """Cancels jobs."""

    def __init__(self, jobs: Submissions, on_end: OnEnd) -> None:
        self._jobs = jobs
        self._on_end = on_end

    async def cancel(self, job_id: str, key_id: str) -> JobStatus:
        """Cancel a job; a job that has ended stays as it is.

        Returns:
            Its status now. `processing`: its worker was told.

        Raises:
            TaskNotFoundError: There is none, or it belongs to another key.
            TaskExpiredError: It ended longer than `RESULT_TTL_S` ago.
            RedisUnavailableError: Redis is away; repeat the call.
        """
        status, ended_here = await self._jobs.cancel(job_id, key_id)
        if ended_here:
            await self._log_end(job_id)
        return status

    async def _log_end(self, job_id: str) -> None:
        try:
            record = await self._jobs.find(job_id)
        except RedisUnavailableError:
            return
        if record is not None:
            self._on_end(record, outcome_of(record))
