"""What an idempotency key does to a submission, on a real Redis server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from common import keys
from common.connection import AsyncRedis, SyncRedis, connect, connect_async
from common.errors import (
    IdempotencyMismatchError,
    QueueFullError,
    RateLimitError,
    TaskExpiredError,
)
from common.job_store import Claim, Idempotency, Submissions
from common.schemas import JobStatus, Outcome
from tests.integration.stores import KEY, Bench, settings, spec
from tests.redis_server import RedisServer

SAME = Idempotency("a" * 32, "b" * 32)
OTHER_REQUEST = replace(SAME, request_hash="c" * 32)
NAME = f"{KEY}:{SAME.key_hash}"


def num_jobs(client: SyncRedis) -> int:
    return len(client.keys(keys.JOB + "*"))


async def first(bench: Bench) -> str:
    """Submit a job under the key; its id."""
    job = spec()
    submitted = await bench.submissions.submit(job, idempotency=SAME)
    assert submitted.replayed is None
    return job.job_id


async def repeat(bench: Bench) -> str:
    """Submit another job under the key; the id of the one that stands for it."""
    submitted = await bench.submissions.submit(spec(), idempotency=SAME)
    assert submitted.replayed is not None
    return submitted.replayed.jobs[0].job_id


async def test_a_repeat_is_answered_with_the_first_job_and_changes_nothing(bench: Bench) -> None:
    job = replace(spec(), stream_token="the first one's")
    submitted = await bench.submissions.submit(job, idempotency=SAME)
    again = await bench.submissions.submit(spec(), idempotency=SAME)
    assert again.replayed is not None
    assert (again.replayed.jobs[0].job_id, again.replayed.jobs[0].status) == (
        job.job_id,
        JobStatus.QUEUED,
    )
    assert again.replayed.jobs[0].stream_token == "the first one's"
    assert again.queue_position == 1
    assert again.rate_remaining >= submitted.rate_remaining
    assert num_jobs(bench.client) == 1
    assert bench.claims.num_permits(job.model) == 1
    assert bench.client.hget(keys.COUNTERS, "jobs:submitted") == "1"


async def test_without_a_key_equal_submissions_are_different_jobs(bench: Bench) -> None:
    await bench.submit()
    await bench.submit()
    assert num_jobs(bench.client) == 2
    assert bench.client.keys(keys.IDEMPOTENCY + "*") == []


async def test_another_request_under_the_key_is_refused(bench: Bench) -> None:
    job_id = await first(bench)
    with pytest.raises(IdempotencyMismatchError):
        await bench.submissions.submit(spec(), idempotency=OTHER_REQUEST)
    assert num_jobs(bench.client) == 1
    assert await repeat(bench) == job_id


async def test_two_api_keys_may_use_the_same_idempotency_key(bench: Bench) -> None:
    await first(bench)
    theirs = await bench.submissions.submit(spec(key_id="key-b"), idempotency=OTHER_REQUEST)
    assert theirs.replayed is None
    assert num_jobs(bench.client) == 2


async def test_a_repeat_over_the_rate_and_beyond_the_capacity_is_answered(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=1, queue_capacity=1)
    job_id = await first(bench)
    with pytest.raises(RateLimitError):
        await bench.submit()
    for _ in range(3):
        again = await bench.submissions.submit(spec(), idempotency=SAME)
        assert again.replayed is not None
        assert (again.replayed.jobs[0].job_id, again.rate_remaining) == (job_id, 0)


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        ({"rate_limit_per_minute": 1, "rate_limit_burst": 1}, RateLimitError),
        ({"queue_capacity": 1}, QueueFullError),
    ],
)
async def test_a_refused_submission_is_not_remembered(
    client: SyncRedis,
    aclient: AsyncRedis,
    limits: dict[str, Any],
    refusal: type[Exception],
) -> None:
    narrow = Bench(client, aclient, **limits)
    await narrow.submit()
    with pytest.raises(refusal):
        await narrow.submissions.submit(spec(), idempotency=SAME)
    wide = Bench(client, aclient)
    client.delete(keys.RATE + KEY)
    again = await wide.submissions.submit(spec(), idempotency=OTHER_REQUEST)
    assert again.replayed is None
    assert num_jobs(client) == 2


async def test_a_repeats_place_is_that_of_now(bench: Bench) -> None:
    await bench.submit()
    await first(bench)
    places = [(await bench.submissions.submit(spec(), idempotency=SAME)).queue_position]
    bench.claim()
    places.append((await bench.submissions.submit(spec(), idempotency=SAME)).queue_position)
    claim = bench.claim()
    running = await bench.submissions.submit(spec(), idempotency=SAME)
    assert running.replayed is not None
    assert running.replayed.jobs[0].status is JobStatus.PROCESSING
    places.append(running.queue_position)
    bench.claims.release(claim.record.job_id, claim.nonce)
    places.append((await bench.submissions.submit(spec(), idempotency=SAME)).queue_position)
    assert places == [2, 1, None, 1]


async def test_a_call_repeated_after_a_lost_reply_is_no_repeat_of_the_client(bench: Bench) -> None:
    job = spec()
    answers = [await bench.submissions.submit(job, idempotency=SAME) for _ in range(2)]
    assert [answer.replayed for answer in answers] == [None, None]
    assert num_jobs(bench.client) == 1
    # Even where the job was cancelled meanwhile, and its key is another one's.
    await bench.submissions.cancel(job.job_id, KEY)
    await bench.submissions.submit(spec(), idempotency=OTHER_REQUEST)
    assert (await bench.submissions.submit(job, idempotency=SAME)).replayed is None
    assert (await bench.record(job.job_id)).status is JobStatus.CANCELLED
    assert num_jobs(bench.client) == 2


async def test_a_waiting_jobs_cancel_frees_its_key(bench: Bench) -> None:
    cancelled = await first(bench)
    await bench.submissions.cancel(cancelled, KEY)
    fresh = await bench.submissions.submit(spec(), idempotency=OTHER_REQUEST)
    assert fresh.replayed is None
    assert num_jobs(bench.client) == 2


def finish(bench: Bench, claim: Claim, status: JobStatus) -> None:
    assert bench.claims.finish(claim.record.job_id, claim.nonce, Outcome(status), 1) is None


async def test_a_running_jobs_cancel_frees_its_key_when_the_job_has_ended(bench: Bench) -> None:
    job_id = await first(bench)
    claim = bench.claim()
    await bench.submissions.cancel(job_id, KEY)
    assert await repeat(bench) == job_id
    finish(bench, claim, JobStatus.CANCELLED)
    assert await first(bench) != job_id


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.EXPIRED])
async def test_a_job_that_ended_otherwise_is_not_run_again(bench: Bench, status: JobStatus) -> None:
    job_id = await first(bench)
    finish(bench, bench.claim(), status)
    again = await bench.submissions.submit(spec(), idempotency=SAME)
    assert again.replayed is not None
    assert (again.replayed.jobs[0].job_id, again.replayed.jobs[0].status) == (job_id, status)
    assert again.queue_position is None


async def test_a_cancel_does_not_free_a_key_that_is_a_later_jobs_by_now(bench: Bench) -> None:
    earlier = await first(bench)
    bench.client.delete(keys.IDEMPOTENCY + NAME)  # as if a day had passed while it waited
    later = await first(bench)
    await bench.submissions.cancel(earlier, KEY)
    assert await repeat(bench) == later


async def test_a_job_whose_result_was_dropped_is_not_run_again_while_the_key_is_kept(
    bench: Bench,
) -> None:
    job_id = await first(bench)
    finish(bench, bench.claim(), JobStatus.COMPLETED)
    bench.client.delete(keys.job(job_id), keys.events(job_id))  # as if RESULT_TTL_S had passed
    with pytest.raises(TaskExpiredError, match=job_id):
        await bench.submissions.submit(spec(), idempotency=SAME)
    with pytest.raises(IdempotencyMismatchError):
        await bench.submissions.submit(spec(), idempotency=OTHER_REQUEST)
    assert num_jobs(bench.client) == 0


async def test_a_key_is_kept_for_a_day_from_the_first_submission_in_little_memory(
    bench: Bench,
) -> None:
    job_id = await first(bench)
    name = keys.IDEMPOTENCY + NAME
    assert bench.client.hget(keys.job(job_id), "idem") == NAME
    assert keys.IDEMPOTENCY_TTL_S - 60 < bench.client.ttl(name) <= keys.IDEMPOTENCY_TTL_S
    bench.client.expire(name, 100)
    await repeat(bench)
    assert bench.client.ttl(name) <= 100
    assert bench.client.memory_usage(name) <= 256


async def test_looking_for_an_earlier_submission_accepts_nothing(bench: Bench) -> None:
    before = bench.client.dbsize()
    assert await bench.submissions.replay(KEY, SAME) is None
    assert bench.client.dbsize() == before
    job_id = await first(bench)
    found = await bench.submissions.replay(KEY, SAME)
    assert found is not None
    assert found.replayed is not None
    assert (found.replayed.jobs[0].job_id, found.queue_position) == (job_id, 1)
    with pytest.raises(IdempotencyMismatchError):
        await bench.submissions.replay(KEY, OTHER_REQUEST)
    assert await bench.submissions.replay("key-b", SAME) is None


async def test_of_fifty_equal_submissions_at_once_at_two_gateways_one_becomes_a_job(
    redis_url: str, bench: Bench
) -> None:
    # The race: the same request is sent again, here and there, before its first answer.
    clients = [connect_async(redis_url) for _ in range(2)]
    gateways = [Submissions(client, settings()) for client in clients]
    jobs = [spec() for _ in range(50)]
    answers = await asyncio.gather(
        *(gateways[i % 2].submit(job, idempotency=SAME) for i, job in enumerate(jobs))
    )
    for client in clients:
        await client.aclose()
    new = [job.job_id for job, a in zip(jobs, answers, strict=True) if a.replayed is None]
    assert len(new) == 1
    assert {a.replayed.jobs[0].job_id for a in answers if a.replayed is not None} == set(new)
    assert num_jobs(bench.client) == 1
    assert bench.claim().record.job_id == new[0]


async def test_of_requests_that_differ_at_once_under_one_key_one_becomes_a_job(
    bench: Bench,
) -> None:
    # The race: a client uses its key for several requests before it has any answer.
    requests = [replace(SAME, request_hash=f"{i:032x}") for i in range(20)]
    answers = await asyncio.gather(
        *(bench.submissions.submit(spec(), idempotency=request) for request in requests),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, IdempotencyMismatchError)]
    assert len(refused) == len(requests) - 1
    assert num_jobs(bench.client) == 1


async def test_a_repeat_after_redis_was_killed_finds_the_first_job(
    own_redis: RedisServer,
) -> None:
    with connect(own_redis.url) as client:
        aclient = connect_async(own_redis.url)
        bench = Bench(client, aclient)
        job_id = await first(bench)
        own_redis.kill()
        own_redis.start()
        assert await repeat(bench) == job_id
        await aclient.aclose()
