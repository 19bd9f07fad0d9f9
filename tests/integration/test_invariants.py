"""The checker of what is stored: every invariant broken by hand, and none on a sound service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from common import keys
from common.connection import SyncRedis
from common.event_stream import Append
from common.events import TokenEvent
from common.invariants import Kind, Report, check_invariants
from common.invariants import checker as checker_module
from common.invariants.keyspace import FAMILIES, SINGLES
from common.schemas import ChoiceResult, JobStatus, Outcome
from tests.integration.stored_jobs import (
    LINE,
    OTHER_LINE,
    StoredJobs,
    check,
    choice,
    end,
    finish,
    kinds,
    store_jobs,
    tokens,
)
from tests.integration.stores import KEY, MODEL, Bench


@pytest.fixture
async def jobs(bench: Bench) -> AsyncIterator[StoredJobs]:
    """Emptied after the test: what it has broken is its own business."""
    yield await store_jobs(bench)
    bench.client.flushall()


# Sound services


async def test_a_sound_service_has_no_violation(jobs: StoredJobs) -> None:
    report = check(jobs.client, quiescent=True)
    assert report.violations == ()
    assert report.num_jobs == 3
    assert report.num_keys >= jobs.client.dbsize()  # one that passed in between was counted


def test_an_empty_redis_has_no_violation(client: SyncRedis) -> None:
    assert check(client, quiescent=True) == Report((), 0, 0)


async def test_what_other_programs_keep_in_the_same_redis_is_not_looked_at(
    jobs: StoredJobs,
) -> None:
    jobs.client.set("unacked", "x")
    jobs.client.set("baton", "x")
    assert kinds(jobs.client) == set()


async def test_more_jobs_than_fit_on_a_page_are_all_looked_at(
    bench: Bench, client: SyncRedis
) -> None:
    ids = [await bench.submit() for _ in range(3 * checker_module.PAGE)]
    assert check(client, quiescent=True).num_jobs == len(ids)
    client.delete(keys.permits(MODEL))
    assert kinds(client, quiescent=True) == {Kind.MISSING_PERMITS}
    for job_id in ids:
        client.zadd(LINE, {job_id: -1})
    assert len(check(client).violations) == len(ids)
    client.flushall()


async def test_every_way_out_of_a_job_leaves_a_sound_service(bench: Bench) -> None:
    cancelled, lost, released, restarted, refused, cut = [await bench.submit() for _ in range(6)]
    await bench.submissions.cancel(cancelled, KEY)
    for _ in range(bench.settings.max_attempts):
        bench.append(bench.claim(), len(bench.events.committed(lost)), 5)
        bench.let_lease_pass(lost)
        bench.reap()
    claim = bench.claim()
    bench.append(claim, 0, 5)
    assert bench.claims.release(released, claim.nonce) == "requeued"
    assert bench.claim().record.job_id == released
    claim = bench.claim()
    bench.append(claim, 0, 1, 2)
    bench.claims.restart(restarted, claim.nonce)
    finish(bench, claim, 3, 4)
    claim = bench.claim()
    failed = Outcome(JobStatus.FAILED, error_type="EngineError", error_message="no")
    bench.claims.finish(refused, claim.nonce, failed, 0)
    bench.append(bench.claim(), 0, 5)
    await bench.submissions.cancel(cut, KEY)
    bench.let_lease_pass(cut)
    bench.reap()
    assert kinds(bench.client, quiescent=True) == set()


async def test_every_choice_of_a_job_has_positions_of_its_own(bench: Bench) -> None:
    job_id = await bench.submit(n=2)
    claim = bench.claim()
    for event in (
        TokenEvent(0, (1, 2), ("a", "b")),
        TokenEvent(0, (3,), ("c",), choice=1),
        TokenEvent(2, (4,), ("d",)),
    ):
        bench.events.append([Append(job_id, claim.nonce, event, 1)])
    assert kinds(bench.client, quiescent=True) == set()
    choices = (ChoiceResult("abd!", (1, 2, 4), "stop"), ChoiceResult("c?", (3,), "stop"))
    outcome = Outcome(JobStatus.COMPLETED, choices, ("!", "?"))
    assert bench.claims.finish(job_id, claim.nonce, outcome, 1) is None
    assert kinds(bench.client, quiescent=True) == set()


async def test_a_stream_of_many_pages_is_read_to_its_end(
    bench: Bench, client: SyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.invariants.streams.PAGE", 3)
    job_id = await bench.submit()
    finish(bench, bench.claim(), *range(9))
    assert kinds(client) == set()
    client.xdel(keys.events(job_id), "8-0")
    assert Kind.EVENT_IDS in kinds(client)
    client.flushall()


async def test_an_ended_stream_may_be_gone_before_its_record(jobs: StoredJobs) -> None:
    jobs.client.delete(keys.events(jobs.ended))
    assert kinds(jobs.client) == set()


async def test_a_record_that_has_gone_after_its_stream_leaves_a_sound_service(
    jobs: StoredJobs,
) -> None:
    jobs.client.delete(keys.events(jobs.ended), keys.job(jobs.ended))
    assert kinds(jobs.client, quiescent=True) == set()


async def test_a_lease_that_has_passed_is_the_reapers_and_no_violation(jobs: StoredJobs) -> None:
    jobs.bench.let_lease_pass(jobs.running)
    assert kinds(jobs.client, quiescent=True) == set()


async def test_a_trial_that_is_over_is_no_violation(jobs: StoredJobs) -> None:
    jobs.client.hset(keys.TRIALS, "host-1-abc", jobs.ended)
    assert kinds(jobs.client) == set()


# Broken ones


BREAKS: list[tuple[str, Callable[[StoredJobs], object], set[Kind]]] = [
    # A running job has a nonce and a lease.
    ("no nonce", lambda j: j.drop_field(j.running, "nonce"), {Kind.NO_NONCE}),
    ("no lease", lambda j: j.client.zrem(keys.LEASES, j.running), {Kind.NO_LEASE}),
    ("waits and has a lease", lambda j: j.add_lease(j.queued), {Kind.STRAY_LEASE}),
    ("ended and has a lease", lambda j: j.add_lease(j.ended), {Kind.STRAY_LEASE}),
    ("nobody's lease", lambda j: j.add_lease("nobody"), {Kind.STRAY_LEASE}),
    ("a lease too far ahead", lambda j: j.add_lease(j.running, 3600), {Kind.LONG_LEASE}),
    # A waiting job is in its own line, once, by its tag, and nothing else is.
    ("in no line", lambda j: j.client.zrem(LINE, j.queued), {Kind.NOT_IN_LINE}),
    ("another tag", lambda j: j.client.zadd(LINE, {j.queued: 99}), {Kind.WRONG_TAG}),
    ("in two lines", lambda j: j.client.zadd(OTHER_LINE, {j.queued: 3}), {Kind.WRONG_LINE}),
    ("in another line", lambda j: j.move_to_other_line(), {Kind.NOT_IN_LINE, Kind.WRONG_LINE}),
    ("runs and is in line", lambda j: j.client.zadd(LINE, {j.running: 1}), {Kind.WRONG_LINE}),
    ("ended and is in line", lambda j: j.client.zadd(LINE, {j.ended: 1}), {Kind.WRONG_LINE}),
    ("a record deleted in line", lambda j: j.client.delete(keys.job(j.queued)), {Kind.GHOST}),
    ("no such model", lambda j: j.client.srem(keys.MODELS, MODEL), {Kind.UNLISTED_MODEL}),
    ("waits with a nonce", lambda j: j.set_field(j.queued, "nonce", "n"), {Kind.LEFT_OVER}),
    ("waits, cancelled", lambda j: j.set_field(j.queued, "cancel", "1"), {Kind.LEFT_OVER}),
    ("ended with a nonce", lambda j: j.set_field(j.ended, "nonce", "n"), {Kind.LEFT_OVER}),
    ("ended, a suspect", lambda j: j.set_field(j.ended, "suspect", "1"), {Kind.LEFT_OVER}),
    # A record can be read.
    (
        "no such status",
        lambda j: j.set_field(j.running, "status", "?"),
        {Kind.STRAY_LEASE, Kind.BAD_RECORD},
    ),
    ("no such class", lambda j: j.set_field(j.running, "class", "?"), {Kind.BAD_RECORD}),
    ("no owner", lambda j: j.drop_field(j.running, "key"), {Kind.BAD_RECORD}),
    ("no number", lambda j: j.set_field(j.running, "pos:0", "-1"), {Kind.BAD_RECORD}),
    ("no tag", lambda j: j.set_field(j.running, "tag", "nan"), {Kind.BAD_RECORD}),
    # Events have no gap, positions neither, and the record counts both.
    (
        "an event lost",
        lambda j: j.client.xdel(keys.events(j.running), "1-0"),
        {Kind.POSITIONS, Kind.EVENT_IDS},
    ),
    ("a stream lost", lambda j: j.client.delete(keys.events(j.running)), {Kind.EVENT_IDS}),
    (
        "a stream emptied",
        lambda j: j.client.xtrim(keys.events(j.running), 0),
        {Kind.POSITIONS, Kind.EVENT_IDS},
    ),
    (
        "an event too many",
        lambda j: j.set_field(j.running, "eid", "0"),
        {Kind.POSITIONS, Kind.EVENT_IDS},
    ),
    ("too few", lambda j: j.set_field(j.running, "eid", "2"), {Kind.EVENT_IDS}),
    ("an id with a part", lambda j: j.add_entry("2-1"), {Kind.EVENT_IDS}),
    ("tokens twice", lambda j: j.add_event(j.running, tokens(0, 5, 6)), {Kind.POSITIONS}),
    ("a gap in tokens", lambda j: j.add_event(j.running, tokens(4, 9)), {Kind.POSITIONS}),
    ("miscounted", lambda j: j.set_field(j.running, "pos:0", "3"), {Kind.POSITIONS}),
    ("uncounted", lambda j: j.drop_field(j.running, "pos:0"), {Kind.POSITIONS}),
    ("no such choice", lambda j: j.set_field(j.running, "pos:1", "3"), {Kind.POSITIONS}),
    ("a choice too many", lambda j: j.add_other_choice(j.running, 1), {Kind.POSITIONS}),
    ("no number of choices", lambda j: j.set_field(j.running, "n", "?"), {Kind.BAD_RECORD}),
    ("a half restart", lambda j: j.add_event(j.running, {"r": 1}), {Kind.POSITIONS}),
    ("no event", lambda j: j.add_event(j.running, {"x": 1}), {Kind.BAD_EVENT}),
    ("a list", lambda j: j.add_event(j.running, [1]), {Kind.BAD_EVENT}),
    ("texts missing", lambda j: j.add_textless(), {Kind.BAD_EVENT}),
    # There is one end, it is the last event, and it is the record's.
    ("an early end", lambda j: j.add_event(j.running, end("failed")), {Kind.LAST_EVENT}),
    ("two ends", lambda j: j.add_event(j.ended, end("completed")), {Kind.LAST_EVENT}),
    ("another end", lambda j: j.set_field(j.ended, "status", "failed"), {Kind.LAST_EVENT}),
    ("no end", lambda j: j.drop_end(), {Kind.LAST_EVENT}),
    ("tokens after the end", lambda j: j.add_event(j.ended, tokens(2)), {Kind.LAST_EVENT}),
    # The stream is the result.
    ("another text", lambda j: j.set_result([choice("<7><8>")]), {Kind.RESULT}),
    ("another token", lambda j: j.set_result([choice("<7><8>.", 7, 9)]), {Kind.RESULT}),
    ("no result", lambda j: j.drop_field(j.ended, "result"), {Kind.RESULT}),
    ("a choice missing", lambda j: j.add_ended_choice(), {Kind.RESULT}),
    ("no choices", lambda j: j.set_result({"text": "x"}), {Kind.RESULT}),
    # What is needed stays, what has ended goes.
    ("a record may go", lambda j: j.client.expire(keys.job(j.queued), 99), {Kind.MAY_EXPIRE}),
    ("events may go", lambda j: j.client.expire(keys.events(j.running), 99), {Kind.MAY_EXPIRE}),
    ("a record stays", lambda j: j.client.persist(keys.job(j.ended)), {Kind.STAYS_FOR_EVER}),
    ("events stay", lambda j: j.client.persist(keys.events(j.ended)), {Kind.STAYS_FOR_EVER}),
    ("a tombstone stays", lambda j: j.client.persist(keys.gone(j.ended)), {Kind.STAYS_FOR_EVER}),
    ("no tombstone", lambda j: j.client.delete(keys.gone(j.ended)), {Kind.TOMBSTONE}),
    ("buried alive", lambda j: j.client.set(keys.gone(j.queued), KEY, ex=9), {Kind.TOMBSTONE}),
    ("a claim stays", lambda j: j.client.set(keys.CLAIM + "n", "j"), {Kind.STAYS_FOR_EVER}),
    ("a rate stays", lambda j: j.client.set(keys.RATE + "k", 1), {Kind.STAYS_FOR_EVER}),
    ("a name stays", lambda j: j.client.set(keys.IDEMPOTENCY + "k:h", 1), {Kind.STAYS_FOR_EVER}),
    ("a worker stays", lambda j: j.client.set(keys.worker("w"), "{}"), {Kind.STAYS_FOR_EVER}),
    ("an orphan", lambda j: j.client.delete(keys.job(j.ended)), {Kind.ORPHAN_EVENTS}),
    # Every key is known.
    ("no such key", lambda j: j.client.set("baton:jbo:1", 1), {Kind.UNKNOWN_KEY}),
    ("a channel", lambda j: j.client.set(keys.bell("1"), 1), {Kind.UNKNOWN_KEY}),
    ("no id", lambda j: j.client.hset(keys.JOB, "a", 1), {Kind.UNKNOWN_KEY}),
    ("a class", lambda j: j.client.zadd(keys.ready(MODEL, "top"), {"a": 1}), {Kind.UNKNOWN_KEY}),
    ("nobody's trial", lambda j: j.client.hset(keys.TRIALS, "", j.running), {Kind.BAD_TRIAL}),
    ("a trial of nothing", lambda j: j.client.hset(keys.TRIALS, "w", ""), {Kind.BAD_TRIAL}),
]


@pytest.mark.parametrize(
    ("break_it", "expected"), [row[1:] for row in BREAKS], ids=[row[0] for row in BREAKS]
)
async def test_a_broken_invariant_is_found(
    jobs: StoredJobs, break_it: Callable[[StoredJobs], object], expected: set[Kind]
) -> None:
    break_it(jobs)
    assert kinds(jobs.client) == expected


@pytest.mark.parametrize("family", [*FAMILIES, *SINGLES])
async def test_a_key_of_a_wrong_type_is_found_and_hinders_no_other_check(
    jobs: StoredJobs, family: str
) -> None:
    is_list = (FAMILIES | SINGLES)[family] == "list"
    key = family if family in SINGLES else f"{family}{jobs.running}"
    if family == keys.READY:
        key = OTHER_LINE
    jobs.client.delete(key)
    if is_list:
        jobs.client.set(key, "x")
    else:
        jobs.client.rpush(key, "x")
    jobs.client.set("baton:another", "x")
    found = kinds(jobs.client, quiescent=True)
    assert {Kind.WRONG_TYPE, Kind.UNKNOWN_KEY} <= found


async def test_counters_that_do_not_add_up_count_only_while_nothing_moves(jobs: StoredJobs) -> None:
    jobs.client.hincrby(keys.COUNTERS, "jobs:submitted", 1)
    assert kinds(jobs.client) == set()
    assert kinds(jobs.client, quiescent=True) == {Kind.COUNTERS}


async def test_a_violation_says_what_and_where_but_not_what_was_generated(jobs: StoredJobs) -> None:
    jobs.set_result([choice("<7>secret")])
    [violation] = check(jobs.client).violations
    assert violation.subject == jobs.ended
    assert str(violation) == (
        f"result {jobs.ended}: expected 7 characters of choice 0, as in the stream, "
        "found 9, the same up to 3"
    )


async def test_findings_are_kept_up_to_a_limit_and_that_is_said(
    jobs: StoredJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker_module, "MOST_FINDINGS", 3)
    for number in range(10):
        jobs.client.set(f"baton:nonsense:{number}", 1)
    report = check(jobs.client)
    assert len(report.violations) == 3
    assert report.notes == ("the check was broken off after 3 findings",)


async def test_a_test_can_ask_by_the_address_alone(jobs: StoredJobs, redis_url: str) -> None:
    assert check_invariants(redis_url) == []
    jobs.client.hincrby(keys.COUNTERS, "jobs:submitted", 1)
    assert [violation.kind for violation in check_invariants(redis_url)] == [Kind.COUNTERS]
    assert check_invariants(redis_url, quiescent=False) == []
