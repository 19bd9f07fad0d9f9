"""Waiting for jobs whose client waits for the whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from api.background import end
from api.deltas import ended_record, shutting_down
from api.fleet_poller import FleetPoller
from api.watcher import Watcher
from common.errors import (
    EngineTimeoutError,
    NoWorkerError,
    RedisUnavailableError,
    UpstreamFailedError,
)
from common.job_store import Submissions
from common.schemas import JobRecord

NO_WORKER_S = 60.0
"""For so long there may be no worker with a model before its clients are sent away."""
CHECK_S = 0.5
RETRY_AFTER_S = 10.0


async def wait_for_ends(
    jobs: Submissions,
    watcher: Watcher,
    poller: FleetPoller,
    job_ids: Sequence[str],
    *,
    model: str,
    limit_s: float,
) -> list[JobRecord]:
    """The records of jobs that have ended.

    Raises:
        EngineTimeoutError: They have not within the limit.
        NoWorkerError: No worker has announced the model for a while.
        UpstreamFailedError: The servers that run the model have been away for a while.
        ShuttingDownError: The gateway stops.
        InternalError: A job's record is gone.
    """
    longer_s = limit_s + CHECK_S
    waits = [asyncio.create_task(watcher.wait_for_end(i, longer_s)) for i in job_ids]
    try:
        async with asyncio.timeout(limit_s):
            while (await asyncio.wait(waits, timeout=CHECK_S))[1]:
                check_workers(poller, model)
            if watcher.is_closed:
                raise shutting_down()
            return [await ended_record(jobs, job_id) for job_id in job_ids]
    except TimeoutError:
        raise EngineTimeoutError(f"Engine request timed out after {limit_s:g}s") from None
    finally:
        await end(*waits)


async def ended_within(
    jobs: Submissions, watcher: Watcher, job_id: str, wait_s: float
) -> JobRecord | None:
    """The record of a job, or None where it has not ended in time or Redis is away: it goes on."""
    if not await watcher.wait_for_end(job_id, wait_s):
        return None
    try:
        record = await jobs.find(job_id)
    except RedisUnavailableError:
        return None
    return record if record is not None and record.status.is_final else None


def may_begin(poller: FleetPoller, model: str) -> bool:
    """Whether a client may be told to wait on: till then it can still be sent away."""
    return not poller.absent_s(model) and not poller.away_s(model)


def check_workers(poller: FleetPoller, model: str) -> None:
    """Return where it makes sense to wait for a model.

    Raises:
        NoWorkerError: No worker has announced it for a while.
        UpstreamFailedError: The servers that run it have been away for as long as a job is tried.
    """
    if poller.away_s(model) > poller.upstream_retry_s:
        raise UpstreamFailedError(
            f"No server that runs '{model}' answers at present; the request was not kept. To have "
            "it wait for one, use POST /generate.",
            retry_after_s=RETRY_AFTER_S,
        )
    if poller.absent_s(model) >= NO_WORKER_S:
        raise NoWorkerError(
            f"No worker serves '{model}' at present; the request was not kept. To have it wait for "
            "one, use POST /generate.",
            retry_after_s=RETRY_AFTER_S,
        )
