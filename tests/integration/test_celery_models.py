"""Celery's consumer in a real worker process that serves several models.

Every job is brought by Celery: it is submitted while a place of its model is free.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import keys
from common.connection import AsyncRedis, SyncRedis
from common.job_store import Submissions
from common.sampling import SamplingSpec
from common.schemas import JobStatus
from tests.integration.stores import KEY, settings, spec
from tests.worker_process import ENDLESS, WorkerProcess

FOREVER = 500_000  # tokens: more than any test waits for
DEADLINE_S = 30
POLL_S = 0.02  # records have no event


class Jobs:
    """Submits and watches jobs."""

    def __init__(self, client: AsyncRedis) -> None:
        self._submissions = Submissions(client, settings())

    async def submit(self, model: str, num_tokens: int = 3, count: int = 1) -> list[str]:
        """Submit jobs that generate so many tokens; their ids."""
        sampling = SamplingSpec(max_tokens=num_tokens, time_limit_s=600, seed=1)
        jobs = [replace(spec(), model=model, sampling=sampling) for _ in range(count)]
        for job in jobs:
            await self._submissions.submit(job)
        return [job.job_id for job in jobs]

    async def wait_until(self, status: JobStatus, ids: list[str]) -> None:
        """Wait until all have this status."""
        async with asyncio.timeout(DEADLINE_S):
            for job_id in ids:
                record = await self._submissions.get(job_id, KEY)
                while record.status is not status:
                    await asyncio.sleep(POLL_S)
                    record = await self._submissions.get(job_id, KEY)

    async def run(self, model: str) -> None:
        """Submit a short job and wait for its end."""
        await self.wait_until(JobStatus.COMPLETED, await self.submit(model))

    async def cancel(self, ids: list[str]) -> None:
        """End jobs."""
        for job_id in ids:
            await self._submissions.cancel(job_id, KEY)
        await self.wait_until(JobStatus.CANCELLED, ids)


def num_pushes(client: SyncRedis) -> int:
    """Times that a permit was put into a list: by submissions, and by workers without room."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("lpush", "rpush"))


@pytest.fixture
def jobs(aclient: AsyncRedis) -> Jobs:
    return Jobs(aclient)


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[WorkerProcess] = []

    def start(*models: str, **more: Any) -> WorkerProcess:
        entries = [{"id": model, "source": "fake"} for model in models]
        values = {"MODELS": json.dumps(entries), "MAX_BATCH_SIZE": 2} | more
        started.append(WorkerProcess(redis_url, tmp_path, **values))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


async def test_one_models_backlog_holds_up_no_other_model_and_keeps_its_permits(
    start_worker: StartWorker, jobs: Jobs, client: SyncRedis
) -> None:
    worker = start_worker("a", "b")
    worker.wait_until_ready("a")
    worker.wait_until_ready("b")
    ids = await jobs.submit("a", FOREVER, count=60)
    await jobs.wait_until(JobStatus.PROCESSING, ids[:2])
    num_moved = num_pushes(client)
    for _ in range(20):
        await jobs.run("b")
    # The permits of `a` rest in the broker's list, for a worker that has room: they are neither
    # spent nor taken and put back, but for a few at the moment when it became full.
    assert client.llen(keys.permits("a")) >= 50
    assert num_pushes(client) - num_moved < 60
    await jobs.cancel(ids[::-1])
    await jobs.run("a")


async def test_models_that_do_not_fit_together_are_loaded_when_their_jobs_come(
    start_worker: StartWorker, jobs: Jobs
) -> None:
    worker = start_worker("a", "b", MODEL_CACHE_SIZE=1)
    worker.wait_until_ready("a")
    for model in ("b", "a", "b", "b", "a"):
        await jobs.run(model)
    worker.wait_for("Model b is unloaded")


async def test_jobs_that_waited_before_the_worker_came_are_run_whichever_model_they_are_for(
    start_worker: StartWorker, jobs: Jobs
) -> None:
    ids = [*await jobs.submit("a", count=5), *await jobs.submit("b", count=5)]
    start_worker("a", "b", MODEL_CACHE_SIZE=1)
    await jobs.wait_until(JobStatus.COMPLETED, ids)


async def test_a_model_that_loads_for_ever_holds_up_no_other_and_no_exit(
    start_worker: StartWorker, jobs: Jobs
) -> None:
    worker = start_worker("a", ENDLESS)
    worker.wait_until_ready("a")
    [waiting] = await jobs.submit(ENDLESS)
    await jobs.run("a")
    worker.signal(signal.SIGTERM)
    worker.stop()
    assert worker.exit_status == 0
    await jobs.wait_until(JobStatus.QUEUED, [waiting])


async def test_a_worker_takes_jobs_of_the_models_that_it_is_to_serve_alone(
    start_worker: StartWorker, jobs: Jobs
) -> None:
    worker = start_worker("a", "b", WORKER_MODELS="b")
    worker.wait_until_ready("b")
    [other] = await jobs.submit("a")
    await jobs.run("b")
    await jobs.wait_until(JobStatus.QUEUED, [other])
    start_worker("a", "b", WORKER_MODELS="a")
    await jobs.wait_until(JobStatus.COMPLETED, [other])


async def test_a_worker_that_drains_hands_back_the_jobs_of_all_its_models(
    start_worker: StartWorker, jobs: Jobs
) -> None:
    worker = start_worker("a", "b", DRAIN_S=0)
    ids = [*await jobs.submit("a", FOREVER), *await jobs.submit("b", FOREVER)]
    await jobs.wait_until(JobStatus.PROCESSING, ids)
    worker.signal(signal.SIGTERM)
    await jobs.wait_until(JobStatus.QUEUED, ids)
    worker.stop()
    assert worker.exit_status == 0
    start_worker("a", "b")
    await jobs.wait_until(JobStatus.PROCESSING, ids)
    await jobs.cancel(ids)
