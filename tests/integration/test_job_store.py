"""Every transition of a job, on a real Redis server."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest

from common import keys, permits
from common.connection import AsyncRedis, SyncRedis
from common.errors import (
    ModelLoadError,
    QueueFullError,
    RateLimitError,
    TaskExpiredError,
    TaskNotFoundError,
)
from common.event_stream import Append, EventReader, EventWriter
from common.fleet import FleetReader, ServedModel, WorkerInfo
from common.job_store import Claim, Claims, FencedError, Holding, Reaped, Submissions
from common.schemas import (
    ChoiceResult,
    EndEvent,
    JobClass,
    JobRecord,
    JobSpec,
    JobStatus,
    Outcome,
    SamplingSpec,
    StreamEvent,
    TokenEvent,
)
from common.settings import Settings

MODEL = "m"
KEY = "key-a"


def settings(**changes: Any) -> Settings:
    limits = {"rate_limit_per_minute": 60_000, "rate_limit_burst": 1000}
    return Settings(**(limits | changes))


def spec(job_class: JobClass = "normal", key_id: str = KEY) -> JobSpec:
    return JobSpec(
        job_id=str(uuid.uuid4()),
        key_id=key_id,
        model=MODEL,
        job_class=job_class,
        sampling=SamplingSpec(max_tokens=10, time_limit_s=60, seed=7),
        stream_token="token",
        request_id="request",
        prompt_ids=(1, 2, 3),
    )


def announcement(state: Any, worker_id: str = "w") -> str:
    models = {MODEL: ServedModel(state, "no such file" if state == "error" else None)}
    return WorkerInfo(worker_id, "host", 1, "0", "cpu", 8, 0, models).pack()


class Bench:
    """The stores of one test, and short names for what tests do with them."""

    def __init__(self, client: SyncRedis, aclient: AsyncRedis, **changes: Any) -> None:
        self.client = client
        self.settings = settings(**changes)
        self.submissions = Submissions(aclient, self.settings)
        self.reader = EventReader(aclient)
        self.fleet = FleetReader(aclient)
        self.claims = Claims(client, self.settings, "w")
        self.events = EventWriter(client)

    async def submit(self, job_class: JobClass = "normal") -> str:
        job = spec(job_class)
        await self.submissions.submit(job)
        return job.job_id

    def claim(self) -> Claim:
        claim = self.claims.claim([MODEL])
        assert claim is not None
        return claim

    async def record(self, job_id: str) -> JobRecord:
        return await self.submissions.get(job_id, KEY)

    def append(self, claim: Claim, position: int, *tokens: int) -> Any:
        event = TokenEvent(position, tokens, tuple(f"<{t}>" for t in tokens))
        return self.events.append([Append(claim.record.job_id, claim.nonce, event, 5)])[0]

    def let_lease_pass(self, job_id: str) -> None:
        self.client.zadd(keys.LEASES, {job_id: 1})

    def reap(self) -> Reaped:
        # A reaper that ran just now: nobody was away.
        self.client.set(keys.REAPED, 2**53)
        return self.claims.reap(2.0)


@pytest.fixture
def bench(client: SyncRedis, aclient: AsyncRedis) -> Bench:
    return Bench(client, aclient)


async def test_a_submitted_job_waits_in_line_with_a_permit(bench: Bench) -> None:
    job = spec()
    submitted = await bench.submissions.submit(job)
    record = await bench.record(job.job_id)
    assert (submitted.queue_position, record.status) == (1, JobStatus.QUEUED)
    assert record.prompt_ids == (1, 2, 3)
    assert bench.claims.num_permits(MODEL) == 1


async def test_a_submission_repeated_after_a_lost_reply_changes_nothing(bench: Bench) -> None:
    job = spec()
    first = await bench.submissions.submit(job)
    again = await bench.submissions.submit(job)
    assert again.rate_remaining == first.rate_remaining
    assert bench.claims.num_permits(MODEL) == 1
    assert bench.claim().record.job_id == job.job_id
    assert bench.claims.claim([MODEL]) is None


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
    claims = [bench.claims.claim([MODEL], "nonce") for _ in range(2)]
    assert [c.record.job_id for c in claims if c] == [first, first]
    assert claims[1] is not None
    assert claims[1].record.attempts == 1


async def test_a_nonce_whose_job_has_ended_claims_nothing_more(bench: Bench) -> None:
    await bench.submit()
    second = await bench.submit()
    claim = bench.claim()
    bench.claims.finish(claim.record.job_id, claim.nonce, Outcome(JobStatus.COMPLETED), 0)
    assert bench.claims.claim([MODEL], claim.nonce) is None
    assert bench.claim().record.job_id == second


async def test_a_worker_claims_only_models_that_it_has(bench: Bench) -> None:
    await bench.submit()
    assert bench.claims.claim(["another"]) is None


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
    assert bench.claims.finish(job_id, claim.nonce, outcome, 0) == 1
    assert (await bench.record(job_id)).status is JobStatus.PROCESSING


async def test_nothing_of_an_ended_job_stays_for_ever(bench: Bench) -> None:
    job_id = await bench.submit()
    assert bench.client.ttl(keys.job(job_id)) == -1
    claim = bench.claim()
    bench.append(claim, 0, 5)
    assert bench.client.ttl(keys.events(job_id)) == -1
    outcome = Outcome(JobStatus.COMPLETED, (ChoiceResult("a", (5,), "stop"),), ("",))
    bench.claims.finish(job_id, claim.nonce, outcome, 0)
    ttl = bench.settings.result_ttl_s
    assert bench.client.ttl(keys.job(job_id)) == ttl
    assert bench.client.ttl(keys.events(job_id)) == bench.settings.stream_grace_s
    assert bench.client.ttl(keys.gone(job_id)) == 2 * ttl
    assert bench.client.zcard(keys.LEASES) == 0


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
    assert bench.claims.claim([MODEL]) is None
    assert len(await bench.reader.after(job_id, 0)) == 1


async def test_a_running_job_is_cancelled_through_append_and_heartbeat(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    assert not bench.append(claim, 0, 5).cancelled
    assert await bench.submissions.cancel(job_id, KEY) == (JobStatus.PROCESSING, False)
    assert bench.append(claim, 1, 6).cancelled
    pulse = bench.claims.heartbeat(announcement("ready"), [Holding(job_id, claim.nonce, 1)])
    assert pulse.cancelled == (claim.nonce,)


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
    assert bench.claims.release(first, claim.nonce)
    assert not bench.claims.release(first, claim.nonce)
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
    assert bench.claims.reap(2.0) == Reaped((), ())
    assert bench.client.zscore(keys.LEASES, job_id) != 1


async def test_lost_permits_are_topped_up_to_the_waiting_jobs(bench: Bench) -> None:
    for _ in range(3):
        await bench.submit()
    bench.client.delete(keys.permits(MODEL))
    bench.reap()
    bench.reap()
    assert bench.claims.num_permits(MODEL) == 3


async def test_the_brokers_list_stays_under_its_cap(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_the_scripts_survive_that_redis_forgets_them(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    bench.client.script_flush()
    assert bench.append(claim, 0, 5).committed == 1
    bench.client.script_flush()
    await bench.submissions.cancel(job_id, KEY)
