"""Jobs that are submitted together, on a real Redis server: accepted all or none, named as one."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from common import keys
from common.connection import AsyncRedis, SyncRedis
from common.errors import QueueFullError, RateLimitError, TaskExpiredError
from common.job_store import Idempotency, Submitted
from common.schemas import JobSpec, JobStatus, Outcome, member_ids
from tests.integration.stores import KEY, Bench, spec

SAME = Idempotency("a" * 32, "b" * 32)
NAME = keys.IDEMPOTENCY + f"{KEY}:{SAME.key_hash}"


def group(count: int, key_id: str = KEY) -> list[JobSpec]:
    ids = member_ids(str(uuid.uuid4()), count)
    return [replace(spec(key_id=key_id), job_id=job_id) for job_id in ids]


async def submit(bench: Bench, *jobs: JobSpec) -> Submitted:
    return await bench.submissions.submit(*jobs, idempotency=SAME)


def finish(bench: Bench, status: JobStatus = JobStatus.COMPLETED) -> None:
    claim = bench.claim()
    assert bench.claims.finish(claim.record.job_id, claim.nonce, Outcome(status), 1) is None


def num_jobs(client: SyncRedis) -> int:
    return len(client.keys(keys.JOB + "*"))


async def test_the_jobs_of_a_group_run_in_its_order_each_with_a_permit(bench: Bench) -> None:
    jobs = group(3)
    submitted = await bench.submissions.submit(*jobs)
    assert submitted.queue_position == 1
    assert bench.claims.num_permits(jobs[0].model) == 3
    assert [bench.claim().record.job_id for _ in jobs] == [job.job_id for job in jobs]
    assert bench.client.hget(keys.COUNTERS, "jobs:submitted") == "3"


async def test_a_group_that_does_not_fit_is_refused_whole(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, queue_capacity=4)
    await bench.submit()
    with pytest.raises(QueueFullError, match="no room for 4 more: 1 of 4"):
        await bench.submissions.submit(*group(4), idempotency=SAME)
    assert num_jobs(client) == 1
    assert client.get(NAME) is None
    await bench.submissions.submit(*group(3), idempotency=SAME)
    assert num_jobs(client) == 4


async def test_a_group_counts_once_toward_the_rate(client: SyncRedis, aclient: AsyncRedis) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=2)
    assert (await bench.submissions.submit(*group(5))).rate_remaining == 1
    assert (await bench.submissions.submit(*group(5))).rate_remaining == 0
    with pytest.raises(RateLimitError):
        await bench.submissions.submit(*group(5))
    assert num_jobs(client) == 10


async def test_what_is_not_rated_neither_spends_the_rate_nor_needs_it(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=1)
    unrated = [await bench.submissions.submit(spec(), is_rated=False) for _ in range(3)]
    assert [answer.rate_remaining for answer in unrated] == [1, 1, 1]
    await bench.submit()
    assert (await bench.submissions.submit(spec(), is_rated=False)).rate_remaining == 0


async def test_a_repeated_call_changes_nothing(bench: Bench) -> None:
    jobs = group(2)
    first = await bench.submissions.submit(*jobs)
    again = await bench.submissions.submit(*jobs)
    assert (again.queue_position, again.replayed) == (first.queue_position, None)
    assert bench.claims.num_permits(jobs[0].model) == 2
    bench.claim()
    assert (await bench.submissions.submit(*jobs)).queue_position == 1  # of the second one


async def test_a_repeat_is_answered_with_the_whole_group_as_it_stands(bench: Bench) -> None:
    jobs = [replace(job, stream_token=f"t{i}") for i, job in enumerate(group(3))]
    await submit(bench, *jobs)
    bench.claim()
    again = await submit(bench, *group(3))
    assert again.replayed is not None
    assert again.replayed.group_id == jobs[0].job_id.removesuffix("-0")
    assert [(j.job_id, j.stream_token) for j in again.replayed.jobs] == [
        (job.job_id, job.stream_token) for job in jobs
    ]
    statuses = [job.status for job in again.replayed.jobs]
    assert statuses == [JobStatus.PROCESSING, JobStatus.QUEUED, JobStatus.QUEUED]
    assert again.queue_position == 1
    assert num_jobs(bench.client) == 3


async def test_a_group_without_one_of_its_records_is_gone(bench: Bench) -> None:
    jobs = group(2)
    await submit(bench, *jobs)
    for _ in jobs:
        finish(bench)
    bench.client.delete(keys.job(jobs[1].job_id), keys.events(jobs[1].job_id))
    with pytest.raises(TaskExpiredError):
        await submit(bench, *group(2))


async def test_a_cancelled_member_frees_the_key_only_when_all_have_ended(bench: Bench) -> None:
    jobs = group(3)
    await submit(bench, *jobs)
    await bench.submissions.cancel(jobs[1].job_id, KEY)
    finish(bench)
    again = await submit(bench, *group(3))
    assert again.replayed is not None
    assert [job.status for job in again.replayed.jobs] == ["completed", "cancelled", "queued"]
    finish(bench)
    assert (await submit(bench, *group(3))).replayed is None


async def test_a_group_that_has_ended_without_a_cancel_keeps_its_key(bench: Bench) -> None:
    await submit(bench, *group(2))
    finish(bench)
    finish(bench, JobStatus.FAILED)
    again = await submit(bench, *group(2))
    assert again.replayed is not None
    assert [job.status for job in again.replayed.jobs] == ["completed", "failed"]
