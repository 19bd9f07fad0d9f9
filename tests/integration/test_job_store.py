"""Every transition of a job, on a real Redis server."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from common import keys, permits
from common.connection import AsyncRedis, SyncRedis
from common.embeddings import Input, pack_inputs
from common.errors import (
    QueueFullError,
    RateLimitError,
    TaskExpiredError,
    TaskNotFoundError,
)
from common.events import EndEvent, StreamEvent, TokenEvent
from common.job_store import Holding
from common.schemas import ChoiceResult, JobStatus, Outcome
from common.submit_args import INLINE_SIZE
from tests.integration.stores import KEY, MODEL, REVISION, Bench, announcement, spec


async def test_a_submitted_job_waits_in_line_with_a_permit(bench: Bench) -> None:
    job = spec()
    submitted = await bench.submissions.submit(job)
    record = await bench.record(job.job_id)
    assert (submitted.queue_position, record.status) == (1, JobStatus.QUEUED)
    assert record.prompt_ids == (1, 2, 3)
    assert bench.claims.num_permits(MODEL) == 1


async def test_a_submission_repeated_after_a_lost_reply_changes_nothing(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=3)
    job = spec()
    first = await bench.submissions.submit(job)
    again = await bench.submissions.submit(job)
    assert again.rate_remaining == first.rate_remaining
    assert bench.claims.num_permits(MODEL) == 1
    assert bench.claim().record.job_id == job.job_id
    assert bench.claims.claim({MODEL: REVISION}) is None


async def test_the_queue_takes_no_more_than_its_capacity(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, queue_capacity=2)
    await bench.submit()
    await bench.submit("low")
    with pytest.raises(QueueFullError, match="2 of 2") as caught:
        await bench.submit()
    assert caught.value.retry_after_s is not None


async def test_a_key_gets_its_burst_and_then_its_rate(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=3)
    left = [(await bench.submissions.submit(spec())).rate_remaining for _ in range(3)]
    with pytest.raises(RateLimitError) as caught:
        await bench.submit()
    assert left == [2, 1, 0]
    assert caught.value.retry_after_s == pytest.approx(60, abs=5)


async def test_a_refused_submission_does_not_use_up_the_rate(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=2, queue_capacity=1)
    await bench.submit()
    with pytest.raises(QueueFullError):
        await bench.submit()
    bench.claim()
    await bench.submit()


async def test_one_keys_rate_does_not_touch_anothers(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    bench = Bench(client, aclient, rate_limit_per_minute=1, rate_limit_burst=1)
    await bench.submit()
    await bench.submissions.submit(spec(key_id="key-b"))


async def test_within_a_class_the_first_comes_first(bench: Bench) -> None:
    ids = [await bench.submit() for _ in range(5)]
    assert [bench.claim().record.job_id for _ in range(5)] == ids


async def test_higher_classes_come_first_and_position_counts_them(bench: Bench) -> None:
    low = await bench.submit("low")
    normal = await bench.submit("normal")
    high = await bench.submit("high")
    positions = [
        await bench.submissions.queue_position(await bench.record(i)) for i in (high, normal, low)
    ]
    assert positions == [1, 2, 3]
    assert [bench.claim().record.job_id for _ in range(3)] == [high, normal, low]


async def test_every_sixteenth_claim_goes_to_the_lowest_class(bench: Bench) -> None:
    low = await bench.submit("low")
    for _ in range(20):
        await bench.submit("high")
    claimed = [bench.claim().record.job_id for _ in range(16)]
    assert claimed.index(low) == 15


async def test_a_claim_repeated_with_its_nonce_gets_the_same_job(bench: Bench) -> None:
    first, _ = await bench.submit(), await bench.submit()
    claims = [bench.claims.claim({MODEL: REVISION}, "nonce") for _ in range(2)]
    assert [c.record.job_id for c in claims if c] == [first, first]
    assert claims[1] is not None
    assert claims[1].record.attempts == 1


async def test_a_nonce_whose_job_has_ended_claims_nothing_more(bench: Bench) -> None:
    await bench.submit()
    second = await bench.submit()
    claim = bench.claim()
    bench.claims.finish(claim.record.job_id, claim.nonce, Outcome(JobStatus.COMPLETED), 0)
    assert bench.claims.claim({MODEL: REVISION}, claim.nonce) is None
    assert bench.claim().record.job_id == second


async def test_a_worker_claims_only_models_that_it_has(bench: Bench) -> None:
    await bench.submit()
    assert bench.claims.claim({"another": REVISION}) is None


async def test_tokens_are_taken_only_where_the_committed_ones_end(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    assert bench.append(claim, 0, 5, 6).committed == 2
    assert bench.append(claim, 0, 5, 6).committed == 2  # repeated
    assert bench.append(claim, 3, 9).committed == 2  # a gap
    assert bench.append(claim, 2, 7).committed == 3
    assert await bench.reader.after(job_id, 0) == [
        StreamEvent(1, TokenEvent(0, (5, 6), ("<5>", "<6>"))),
        StreamEvent(2, TokenEvent(2, (7,), ("<7>",))),
    ]


async def test_events_are_read_after_an_id(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    for position in range(4):
        bench.append(claim, position, position)
    assert [e.eid for e in await bench.reader.after(job_id, 2)] == [3, 4]


async def test_a_finished_job_has_its_result_and_a_last_event(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    bench.append(claim, 0, 5)
    choice = ChoiceResult("<5>é", (5,), "stop")
    outcome = Outcome(JobStatus.COMPLETED, (choice,), ("é",), prompt_tokens=3)
    assert bench.claims.finish(job_id, claim.nonce, outcome, 9) is None
    assert bench.claims.finish(job_id, claim.nonce, outcome, 9) is None  # repeated
    record = await bench.record(job_id)
    assert (record.status, record.choices, record.used_ms) == ("completed", (choice,), 9)
    events = await bench.reader.after(job_id, 1)
    assert events == [StreamEvent(2, EndEvent(JobStatus.COMPLETED, ("é",)))]
    assert (await bench.fleet.snapshot([MODEL])).counters["jobs:completed"] == 1


async def test_a_finish_that_misses_tokens_says_how_many_redis_has(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    bench.append(claim, 0, 5)
    outcome = Outcome(JobStatus.COMPLETED, (ChoiceResult("ab", (5, 6), "stop"),), ("",))
    assert bench.claims.finish(job_id, claim.nonce, outcome, 0) == (0, 1)
    assert (await bench.record(job_id)).status is JobStatus.PROCESSING


async def test_nothing_of_an_ended_job_stays_for_ever(bench: Bench) -> None:
    job_id = await bench.submit()
    assert bench.client.ttl(keys.job(job_id)) == -1
    claim = bench.claim()
    bench.append(claim, 0, 5)
    assert bench.client.ttl(keys.events(job_id)) == -1
    outcome = Outcome(JobStatus.COMPLETED, (ChoiceResult("<5>", (5,), "stop"),), ("",))
    bench.claims.finish(job_id, claim.nonce, outcome, 0)
    ttl = bench.settings.result_ttl_s
    assert bench.client.ttl(keys.job(job_id)) == ttl
    assert bench.client.ttl(keys.events(job_id)) == bench.settings.stream_grace_s
    assert bench.client.ttl(keys.gone(job_id)) == 2 * ttl
    assert bench.client.zcard(keys.LEASES) == 0


@pytest.mark.leaves_debris("it deletes a record", "orphan_events")
async def test_a_dropped_record_is_expired_for_its_owner_and_unknown_to_others(
    bench: Bench,
) -> None:
    job_id = await bench.submit()
    await bench.submissions.cancel(job_id, KEY)
    bench.client.delete(keys.job(job_id))
    with pytest.raises(TaskExpiredError):
        await bench.submissions.get(job_id, KEY)
    with pytest.raises(TaskNotFoundError):
        await bench.submissions.get(job_id, "another key")


async def test_another_keys_job_is_not_found(bench: Bench) -> None:
    job_id = await bench.submit()
    with pytest.raises(TaskNotFoundError):
        await bench.submissions.get(job_id, "another key")
    with pytest.raises(TaskNotFoundError):
        await bench.submissions.cancel(job_id, "another key")
    assert (await bench.record(job_id)).status is JobStatus.QUEUED


async def test_a_waiting_job_is_cancelled_at_once(bench: Bench) -> None:
    job_id = await bench.submit()
    assert await bench.submissions.cancel(job_id, KEY) == (JobStatus.CANCELLED, True)
    assert await bench.submissions.cancel(job_id, KEY) == (JobStatus.CANCELLED, False)
    assert bench.claims.claim({MODEL: REVISION}) is None
    assert len(await bench.reader.after(job_id, 0)) == 1


async def test_a_running_job_is_cancelled_through_append_and_heartbeat(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    assert not bench.append(claim, 0, 5).cancelled
    assert await bench.submissions.cancel(job_id, KEY) == (JobStatus.PROCESSING, False)
    assert bench.append(claim, 1, 6).cancelled
    pulse = bench.claims.heartbeat(announcement("ready"), [Holding(job_id, claim.nonce, 1)])
    assert pulse.cancelled == (claim.nonce,)


async def test_the_brokers_list_stays_under_its_cap(bench: Bench) -> None:
    bench.client.rpush(keys.permits(MODEL), *["x"] * permits.PERMIT_CAP)
    await bench.submit()
    assert bench.claims.num_permits(MODEL) == permits.PERMIT_CAP


async def test_a_permit_says_whose_job_it_is_and_no_more(bench: Bench) -> None:
    job_id = await bench.submit()
    [packed] = bench.client.lrange(keys.permits(MODEL), 0, -1)
    permit = json.loads(packed)
    assert permit["headers"]["id"] == job_id
    assert permit["properties"]["delivery_info"]["routing_key"] == keys.permits(MODEL)
    assert json.loads(base64.b64decode(permit["body"]))[:2] == [[], {}]


async def test_the_scripts_survive_that_redis_forgets_them(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    bench.client.script_flush()
    assert bench.append(claim, 0, 5).committed == 1
    bench.client.script_flush()
    await bench.submissions.cancel(job_id, KEY)


async def test_more_submissions_at_once_than_connections_wait_and_succeed(bench: Bench) -> None:
    await asyncio.gather(*(bench.submit() for _ in range(200)))
    assert (await bench.fleet.snapshot([MODEL])).num_queued == 200


async def test_large_inputs_are_packed_beside_the_event_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def pack(inputs: Sequence[Input]) -> str:
        threads.append(threading.current_thread())
        return pack_inputs(inputs)

    monkeypatch.setattr("common.schemas.pack_inputs", pack)
    for inputs in (("a",), ("a" * INLINE_SIZE, "b")):
        job = replace(spec(), prompt_ids=None, inputs=inputs)
        await bench.submissions.submit(job)
        record = await bench.submissions.find(job.job_id)
        assert record is not None
        assert record.inputs == inputs
    small, large = threads
    assert small is threading.main_thread()
    assert large is not small
