"""Celery's own consumer in a real worker process: it takes permits again after any fault of Redis.

A job that is submitted while a task thread is free can only be started by Celery, which has to
bring the permit. (A task whose job has ended goes on by itself where no permit is left.)
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import kombu.utils.functional
import pytest
from kombu import Connection

from common.connection import SyncRedis, connect, connect_async
from common.errors import RedisUnavailableError
from common.job_store import Submissions
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobStatus
from tests.integration.stores import KEY, settings, spec
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from worker.consumer import RETRY_S, PatientConsumer

NUM_SLOTS = 2
FOREVER = 500_000  # tokens: more than any test waits for
AWAY_S = 200
DEADLINE_S = 30
POLL_S = 0.02  # what is waited for has no event, or Redis, which would tell of it, is away

T = TypeVar("T")


class Jobs:
    """Submits and watches jobs; waits where Redis is away."""

    def __init__(self, submissions: Submissions) -> None:
        self._submissions = submissions

    async def submit(self, num_tokens: int = 3, *, count: int = 1) -> list[str]:
        """Submit jobs that generate so many tokens; their ids."""
        sampling = SamplingSpec(max_tokens=num_tokens, time_limit_s=600, seed=1)
        specs = [replace(spec(), sampling=sampling) for _ in range(count)]
        for job in specs:
            await self._patiently(partial(self._submissions.submit, job))
        return [job.job_id for job in specs]

    async def start_long(self, count: int) -> list[str]:
        """Occupy so many task threads; the jobs' ids."""
        ids = await self.submit(FOREVER, count=count)
        await self.wait_until(JobStatus.PROCESSING, ids)
        return ids

    async def cancel(self, ids: list[str]) -> None:
        """End jobs."""
        for job_id in ids:
            await self._submissions.cancel(job_id, KEY)
        await self.wait_until(JobStatus.CANCELLED, ids)

    async def wait_until(self, status: JobStatus, ids: list[str]) -> None:
        """Wait until all have this status, each in its first attempt."""
        async with asyncio.timeout(DEADLINE_S):
            for job_id in ids:
                record = await self._record(job_id)
                while record.status is not status:
                    await asyncio.sleep(POLL_S)
                    record = await self._record(job_id)
                assert record.attempts == 1

    async def _record(self, job_id: str) -> JobRecord:
        return await self._patiently(lambda: self._submissions.get(job_id, KEY))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except RedisUnavailableError:
                await asyncio.sleep(POLL_S)


@pytest.fixture
async def jobs(own_redis: RedisServer) -> AsyncIterator[Jobs]:
    client = connect_async(own_redis.url)
    yield Jobs(Submissions(client, settings()))
    await client.aclose()


@pytest.fixture
def admin(own_redis: RedisServer) -> Iterator[SyncRedis]:
    with connect(own_redis.url) as client:
        yield client


@pytest.fixture
def start_worker(own_redis: RedisServer, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    started: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        started.append(WorkerProcess(own_redis.url, tmp_path, MAX_BATCH_SIZE=NUM_SLOTS))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def worker(start_worker: Callable[[], WorkerProcess]) -> WorkerProcess:
    worker = start_worker()
    worker.wait_until_ready()
    return worker


Fault = Callable[[RedisServer, SyncRedis], Awaitable[None]]


async def restart(server: RedisServer, admin: SyncRedis) -> None:
    server.kill()
    await asyncio.to_thread(server.start)


async def restart_twice(server: RedisServer, admin: SyncRedis) -> None:
    await restart(server, admin)
    await restart(server, admin)


async def kill_clients(server: RedisServer, admin: SyncRedis) -> None:
    for _ in range(2):
        admin.client_kill_filter(_type="normal", skipme=True)
        admin.client_kill_filter(_type="pubsub")


async def be_read_only(server: RedisServer, admin: SyncRedis) -> None:
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(2)  # several of the consumer's attempts
    admin.execute_command("REPLICAOF", "NO", "ONE")


async def be_full(server: RedisServer, admin: SyncRedis) -> None:
    admin.config_set("maxmemory", 1)
    admin.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(2)  # several of the consumer's attempts
    admin.config_set("maxmemory", 0)


FAST = [(restart, 1), (restart_twice, 2), (kill_clients, 1), (be_read_only, 1), (be_full, 0)]
SLOW = [
    pytest.param(fault, num_busy, marks=pytest.mark.slow)
    for fault, _ in FAST
    for num_busy in range(NUM_SLOTS + 1)
    if (fault, num_busy) not in FAST
]


@pytest.mark.parametrize(("fault", "num_busy"), [*FAST, *SLOW])
async def test_permits_are_taken_again_with_every_task_thread(
    worker: WorkerProcess,
    jobs: Jobs,
    own_redis: RedisServer,
    admin: SyncRedis,
    fault: Fault,
    num_busy: int,
) -> None:
    busy = await jobs.start_long(num_busy)
    await fault(own_redis, admin)
    after = await jobs.submit(count=3)
    if num_busy < NUM_SLOTS:
        await jobs.wait_until(JobStatus.COMPLETED, after)
    await jobs.cancel(busy)
    await jobs.wait_until(JobStatus.COMPLETED, after)
    await jobs.cancel(await jobs.start_long(NUM_SLOTS))
    await jobs.wait_until(JobStatus.COMPLETED, await jobs.submit(count=3))
    assert worker.is_alive, "".join(worker.output)


async def test_permits_that_were_popped_while_redis_refused_are_made_up_for(
    worker: WorkerProcess, jobs: Jobs, admin: SyncRedis
) -> None:
    # Celery notes a permit as taken in a second call, after it has popped it.
    worker.signal(signal.SIGSTOP)
    ids = await jobs.submit(count=NUM_SLOTS)
    admin.config_set("maxmemory", 1)
    worker.signal(signal.SIGCONT)
    await asyncio.to_thread(worker.wait_for, "no permits are taken")
    admin.config_set("maxmemory", 0)
    await jobs.wait_until(JobStatus.COMPLETED, ids)
    assert worker.is_alive


@pytest.mark.parametrize("fault", [be_read_only, be_full])
async def test_a_worker_that_starts_while_redis_refuses_to_write_waits_and_then_works(
    start_worker: Callable[[], WorkerProcess],
    jobs: Jobs,
    own_redis: RedisServer,
    admin: SyncRedis,
    fault: Fault,
) -> None:
    ids = await jobs.submit(count=3)
    refusing = asyncio.create_task(fault(own_redis, admin))
    worker = start_worker()
    await refusing
    await jobs.wait_until(JobStatus.COMPLETED, ids)
    assert worker.is_alive


async def test_a_redis_that_refuses_is_told_once_however_often_it_is_asked(
    worker: WorkerProcess, jobs: Jobs, own_redis: RedisServer, admin: SyncRedis
) -> None:
    await be_read_only(own_redis, admin)
    await asyncio.to_thread(worker.wait_for, "permits are taken again")
    assert sum("no permits are taken" in line for line in worker.output) == 1
    assert not any("Traceback" in line or "CRITICAL" in line for line in worker.output)


def test_a_redis_that_is_away_for_long_is_asked_as_often_as_at_first(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept_s = [0.0]
    attempts: list[Exception] = []

    def sleep(duration_s: float) -> None:
        slept_s[0] += duration_s
        if duration_s and slept_s[0] == AWAY_S:
            own_redis.start()

    own_redis.kill()
    monkeypatch.setattr(kombu.utils.functional, "sleep", sleep)
    waiting = PatientConsumer.__new__(PatientConsumer)
    monkeypatch.setattr(waiting, "_note_away", attempts.append)
    with waiting.ensure_connected(Connection(own_redis.url)) as connection:
        assert connection.connected
    assert slept_s[0] == AWAY_S
    assert len(attempts) * RETRY_S == AWAY_S


@pytest.mark.slow
async def test_redis_is_away_for_longer_than_celery_s_own_retry_steps(
    worker: WorkerProcess, jobs: Jobs, own_redis: RedisServer
) -> None:
    [busy] = await jobs.start_long(1)
    own_redis.kill()
    await asyncio.sleep(60)
    await asyncio.to_thread(own_redis.start)
    await jobs.wait_until(JobStatus.COMPLETED, await jobs.submit(count=3))
    await jobs.cancel([busy])
    assert worker.is_alive


async def test_a_permit_of_a_busy_worker_does_not_keep_a_job_from_an_idle_one(
    worker: WorkerProcess,
    start_worker: Callable[[], WorkerProcess],
    jobs: Jobs,
    own_redis: RedisServer,
) -> None:
    # After a reconnect a busy consumer may take as many permits again as it has threads.
    busy = await jobs.start_long(NUM_SLOTS)
    own_redis.kill()
    await asyncio.to_thread(own_redis.start)
    ids = await jobs.submit(count=2)
    start_worker()
    await jobs.wait_until(JobStatus.COMPLETED, ids)
    await jobs.cancel(busy)
