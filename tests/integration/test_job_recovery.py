"""What becomes of a job whose worker goes, hangs or cannot load its model."""

from __future__ import annotations

import pytest

from common import keys
from common.errors import (
    ModelLoadError,
)
from common.events import TokenEvent
from common.job_store import Claims, FencedError, Holding
from common.reaping import Reaped
from common.schemas import JobStatus, Outcome
from tests.integration.stores import KEY, MODEL, Bench, announcement


async def test_only_the_present_claim_may_append_or_finish(bench: Bench) -> None:
    job_id = await bench.submit()
    old = bench.claim()
    bench.append(old, 0, 5)
    bench.let_lease_pass(job_id)
    assert bench.reap() == Reaped((job_id,), ())
    assert bench.append(old, 1, 6).fenced  # while it waits
    new = bench.claim()
    assert bench.append(old, 1, 6).fenced  # while another one runs it
    with pytest.raises(FencedError):
        bench.claims.finish(job_id, old.nonce, Outcome(JobStatus.COMPLETED), 0)
    assert bench.append(new, 1, 6).committed == 2


async def test_a_heartbeat_names_jobs_that_are_no_longer_held(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    assert bench.claims.release(job_id, claim.nonce)
    pulse = bench.claims.heartbeat(announcement("ready"), [Holding(job_id, claim.nonce, 1)])
    assert pulse.lost == (claim.nonce,)


async def test_a_heartbeat_keeps_a_job_from_the_reaper(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    bench.let_lease_pass(job_id)
    bench.claims.heartbeat(announcement("ready"), [Holding(job_id, claim.nonce, 1)])
    assert bench.reap() == Reaped((), ())


async def test_a_released_job_goes_on_in_its_old_place_without_an_attempt(bench: Bench) -> None:
    first = await bench.submit()
    second = await bench.submit()
    claim = bench.claim()
    bench.append(claim, 0, 5)
    assert bench.claims.release(first, claim.nonce) == "requeued"
    assert bench.claims.release(first, claim.nonce) == "fenced"
    again = bench.claim()
    assert (again.record.job_id, again.record.attempts) == (first, 1)
    assert bench.events.committed(first) == [TokenEvent(0, (5,), ("<5>",))]
    assert bench.claim().record.job_id == second


async def test_a_job_whose_workers_keep_dying_fails_with_what_it_had(bench: Bench) -> None:
    job_id = await bench.submit()
    for attempt in range(bench.settings.max_attempts):
        bench.append(bench.claim(), attempt, 5)
        bench.let_lease_pass(job_id)
        bench.reap()
    record = await bench.record(job_id)
    assert (record.status, record.error_type) == ("failed", "WorkerLostError")
    assert record.choices[0].token_ids == (5, 5, 5)
    assert record.choices[0].text == "<5><5><5>"


async def test_a_cancelled_job_whose_worker_died_ends_cancelled(bench: Bench) -> None:
    job_id = await bench.submit()
    bench.append(bench.claim(), 0, 5)
    await bench.submissions.cancel(job_id, KEY)
    bench.let_lease_pass(job_id)
    bench.reap()
    record = await bench.record(job_id)
    assert (record.status, record.choices[0].text) == ("cancelled", "<5>")


async def test_after_redis_was_away_leases_are_extended_once(bench: Bench) -> None:
    job_id = await bench.submit()
    bench.claim()
    bench.let_lease_pass(job_id)
    bench.client.delete(keys.REAPED)
    assert bench.reaping.reap() == Reaped((), ())
    assert bench.client.zscore(keys.LEASES, job_id) != 1


async def test_lost_permits_are_topped_up_to_the_waiting_jobs(bench: Bench) -> None:
    for _ in range(3):
        await bench.submit()
    bench.client.delete(keys.permits(MODEL))
    bench.reap()
    bench.reap()
    assert bench.claims.num_permits(MODEL) == 3


async def test_jobs_fail_when_no_live_worker_can_load_their_model(bench: Bench) -> None:
    job_id = await bench.submit()
    error = ModelLoadError("Model loading failed: no such file")
    assert bench.claims.fail_ready(MODEL, error) == []  # nobody has said so
    bench.claims.heartbeat(announcement("error"), [])
    other = Claims(bench.client, bench.settings, "w2")
    other.heartbeat(announcement("loading", "w2"), [])
    assert bench.claims.fail_ready(MODEL, error) == []  # another one still tries
    other.leave()
    assert bench.claims.fail_ready(MODEL, error) == [job_id]
    record = await bench.record(job_id)
    assert (record.error_type, record.error_message) == ("ModelLoadError", error.message)


async def test_after_redis_was_away_a_lease_that_is_about_to_pass_is_extended_too(
    bench: Bench,
) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    lease = bench.client.zscore(keys.LEASES, claim.record.job_id)
    bench.client.delete(keys.REAPED)
    bench.client.zadd(keys.LEASES, {job_id: lease - 14_000})
    bench.reaping.reap()
    assert bench.client.zscore(keys.LEASES, job_id) >= lease


@pytest.mark.leaves_debris("it deletes a record", "counters")
async def test_an_id_whose_record_was_deleted_is_passed_over(bench: Bench) -> None:
    ghost, real = await bench.submit(), await bench.submit()
    bench.client.delete(keys.job(ghost))
    assert bench.claim().record.job_id == real
    assert not bench.client.exists(keys.job(ghost))


@pytest.mark.leaves_debris("it deletes a record", "counters")
async def test_a_lease_whose_record_was_deleted_is_dropped(bench: Bench) -> None:
    job_id = await bench.submit()
    bench.claim()
    bench.client.delete(keys.job(job_id))
    bench.let_lease_pass(job_id)
    assert bench.reap() == Reaped((), ())
    assert bench.client.zcard(keys.LEASES) == 0
    assert not bench.client.exists(keys.job(job_id))
