"""What becomes of the jobs of a worker that died, and who is to blame. On a real Redis server."""

from __future__ import annotations

import pytest

from common import keys
from common.connection import AsyncRedis, SyncRedis
from common.errors import ModelLoadError
from common.events import RestartEvent
from common.fleet import ServedModel, WorkerInfo
from common.job_store import Claim, Claims
from common.reaping import Reaped
from common.schemas import JobStatus
from tests.integration.stores import KEY, MODEL, REVISION, Bench

OTHER_REVISION = "r2:float32"


class Fleet(Bench):
    """Several workers on one Redis."""

    def __init__(self, client: SyncRedis, aclient: AsyncRedis) -> None:
        super().__init__(client, aclient)
        self.client.set(keys.REAPED, 2**53)  # a reaper ran just now: nobody was away

    def claim_as(self, worker_id: str, revision: str = REVISION) -> Claim | None:
        return Claims(self.client, self.settings, worker_id).claim({MODEL: revision})

    def ids_claimed_by(self, worker_id: str, count: int) -> list[str]:
        claims = [self.claim_as(worker_id) for _ in range(count)]
        return [claim.record.job_id for claim in claims if claim is not None]

    def die(self, worker_id: str) -> Reaped:
        return self.reaping.hand_back(worker_id)

    def crashes(self, job_id: str) -> int:
        return int(self.client.hget(keys.job(job_id), "crashes") or 0)

    def announce(self, worker_id: str, revision: str) -> None:
        models = {MODEL: ServedModel("ready", revision=revision)}
        info = WorkerInfo(worker_id, "host", 1, "0", "cpu", 8, 0, models)
        Claims(self.client, self.settings, worker_id).heartbeat(info.pack(), [])

    def let_requeue_be_long_ago(self, job_id: str) -> None:
        self.client.hset(keys.job(job_id), "requeued_ms", 1)


async def test_the_jobs_of_a_dead_worker_are_in_line_at_once_and_no_others(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    ids = [await fleet.submit() for _ in range(3)]
    fleet.ids_claimed_by("dead", 2)
    fleet.ids_claimed_by("alive", 1)
    assert set(fleet.die("dead").requeued) == set(ids[:2])
    assert [(await fleet.record(i)).status for i in ids] == ["queued", "queued", "processing"]
    assert fleet.die("dead") == Reaped((), ())


async def test_a_dead_worker_is_no_longer_announced(client: SyncRedis, aclient: AsyncRedis) -> None:
    fleet = Fleet(client, aclient)
    fleet.announce("dead", REVISION)
    fleet.die("dead")
    assert client.zcard(keys.WORKERS) == 0
    assert not client.exists(keys.worker("dead"))


async def test_a_cancelled_job_of_a_dead_worker_ends(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    job_id = await fleet.submit()
    fleet.ids_claimed_by("dead", 1)
    await fleet.submissions.cancel(job_id, "key-a")
    assert fleet.die("dead") == Reaped((), (job_id,))
    assert (await fleet.record(job_id)).status is JobStatus.CANCELLED


async def test_a_worker_tries_one_suspect_at_a_time_and_other_jobs_beside_it(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    first, second = [await fleet.submit() for _ in range(2)]
    fleet.ids_claimed_by("dead", 2)
    fleet.die("dead")
    innocent = await fleet.submit()
    assert fleet.ids_claimed_by("heir", 3) == [first, innocent]
    assert fleet.ids_claimed_by("other", 1) == [second]


async def test_a_suspect_that_commits_a_token_makes_room_for_the_next_one(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    first, second = [await fleet.submit() for _ in range(2)]
    fleet.ids_claimed_by("dead", 2)
    fleet.die("dead")
    claim = fleet.claim_as("heir")
    assert claim is not None
    assert claim.record.job_id == first
    assert fleet.claim_as("heir") is None
    client.delete(keys.permits(MODEL))  # as spent by the claim in vain
    fleet.append(claim, 0, *range(7))
    assert fleet.claim_as("heir") is None  # its worker may have been that far, too
    fleet.append(claim, 7, 7)
    assert fleet.claims.num_permits(MODEL) == 1
    assert fleet.ids_claimed_by("heir", 1) == [second]


async def test_a_suspect_that_is_handed_back_makes_room_for_the_next_one(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    await fleet.submit()
    await fleet.submit()
    fleet.ids_claimed_by("dead", 2)
    fleet.die("dead")
    claim = fleet.claim_as("heir")
    assert claim is not None
    fleet.claims.release(claim.record.job_id, claim.nonce)
    assert fleet.claim_as("heir") is not None


async def test_a_suspect_whose_lease_passed_does_not_keep_its_living_worker_from_the_next_one(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    for _ in range(2):
        await fleet.submit()
    fleet.ids_claimed_by("dead", 2)
    fleet.die("dead")
    claim = fleet.claim_as("heir")
    assert claim is not None
    fleet.let_lease_pass(claim.record.job_id)
    fleet.reap()
    assert fleet.claim_as("heir") is not None


async def test_a_job_that_kills_its_workers_fails_by_itself_and_its_neighbours_do_not(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    poison = await fleet.submit()
    neighbours = [await fleet.submit() for _ in range(4)]
    died = 0
    while (await fleet.record(poison)).status is not JobStatus.FAILED:
        worker = f"w{died}"
        running: list[Claim] = []
        while (claim := fleet.claim_as(worker)) is not None:
            running.append(claim)
            if claim.record.job_id != poison:
                fleet.append(claim, claim.record.completion_tokens, 1)
        assert poison in [claim.record.job_id for claim in running]
        fleet.die(worker)
        died += 1
    assert died == fleet.settings.max_attempts
    assert (await fleet.record(poison)).error_type == "WorkerLostError"
    assert [(await fleet.record(i)).status for i in neighbours] == ["queued"] * 4
    assert [fleet.crashes(i) for i in neighbours] == [1] * 4


async def test_the_neighbours_of_a_suspect_are_not_blamed_where_leases_pass_either(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    suspect = await fleet.submit()
    fleet.ids_claimed_by("dead", 1)
    fleet.die("dead")
    neighbour = await fleet.submit()
    assert fleet.ids_claimed_by("heir", 2) == [suspect, neighbour]
    for job_id in (suspect, neighbour):
        fleet.let_lease_pass(job_id)
    fleet.reap()
    assert (fleet.crashes(suspect), fleet.crashes(neighbour)) == (2, 0)
    assert (await fleet.record(neighbour)).attempts == 0


async def test_jobs_that_make_progress_outlive_any_number_of_deaths(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    innocents = [await fleet.submit() for _ in range(5)]
    for number in range(12):
        poison = await fleet.submit() if number % 4 == 0 else None
        while (claim := fleet.claim_as(f"w{number}")) is not None:
            if claim.record.job_id in innocents:
                fleet.append(claim, claim.record.completion_tokens, *range(8))
        fleet.die(f"w{number}")
        if poison is not None:
            assert (await fleet.record(poison)).status is JobStatus.QUEUED
    assert [(await fleet.record(i)).status for i in innocents] == ["queued"] * 5


async def test_a_job_that_kills_in_its_middle_fails_and_not_those_beside_it(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    neighbours = [await fleet.submit() for _ in range(2)]
    poison = await fleet.submit()
    died = 0
    while (await fleet.record(poison)).status is not JobStatus.FAILED:
        assert died < 10
        while (claim := fleet.claim_as(f"w{died}")) is not None:
            if claim.record.job_id != poison:
                fleet.append(claim, claim.record.completion_tokens, *range(8))
            elif claim.record.completion_tokens < 12:
                fleet.append(claim, claim.record.completion_tokens, *range(3))
        fleet.die(f"w{died}")
        died += 1
    assert [(await fleet.record(i)).status for i in neighbours] == ["queued"] * 2


async def test_a_trial_is_known_until_all_leases_of_its_dead_worker_have_passed(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    suspect = await fleet.submit()
    for number in range(2):
        fleet.ids_claimed_by(f"dead-{number}", 1)
        fleet.die(f"dead-{number}")
    neighbour = await fleet.submit()
    assert fleet.ids_claimed_by("heir", 2) == [suspect, neighbour]
    for job_id in (suspect, neighbour):  # one reap after the other
        fleet.let_lease_pass(job_id)
        fleet.reap()
    assert (await fleet.record(suspect)).status is JobStatus.FAILED
    assert fleet.crashes(neighbour) == 0


async def test_many_jobs_that_are_passed_over_do_not_hide_those_behind_them(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    for _ in range(300):
        await fleet.submit()
    fleet.ids_claimed_by("dead", 300)
    fleet.die("dead")
    fleet.claim_as("heir")
    fresh = await fleet.submit()
    assert fleet.ids_claimed_by("heir", 1) == [fresh]


@pytest.mark.leaves_debris("it deletes a record", "counters")
async def test_a_job_that_has_begun_is_not_failed_by_a_worker_that_cannot_load_its_model(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    begun = await fleet.submit()
    claim = fleet.claim()
    fleet.append(claim, 0, 5)
    fleet.claims.release(begun, claim.nonce)
    fresh, deleted = await fleet.submit(), await fleet.submit()
    client.delete(keys.job(deleted))
    models = {MODEL: ServedModel("error", "no such file")}
    info = WorkerInfo("w", "host", 1, "0", "cpu", 8, 0, models)
    fleet.claims.heartbeat(info.pack(), [])
    assert fleet.claims.fail_ready(MODEL, ModelLoadError("no such file")) == [fresh]
    assert (await fleet.record(begun)).status is JobStatus.QUEUED


async def test_after_a_suspect_is_cleared_its_workers_death_counts_for_all_again(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    suspect = await fleet.submit()
    fleet.ids_claimed_by("dead", 1)
    fleet.die("dead")
    neighbour = await fleet.submit()
    claim = fleet.claim_as("heir")
    assert claim is not None
    fleet.append(claim, 0, *range(8))
    fleet.claim_as("heir")
    fleet.die("heir")
    assert (fleet.crashes(suspect), fleet.crashes(neighbour)) == (1, 1)


async def test_a_job_waits_for_a_worker_of_the_revision_that_began_it(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    begun = await fleet.submit()
    claim = fleet.claim()
    fleet.append(claim, 0, 5)
    fleet.claims.release(begun, claim.nonce)
    fresh = await fleet.submit()
    fleet.announce("same", REVISION)
    fleet.let_requeue_be_long_ago(begun)
    other = fleet.claim_as("other", OTHER_REVISION)
    assert other is not None
    assert other.record.job_id == fresh
    same = fleet.claim_as("same")
    assert same is not None
    assert same.record.completion_tokens == 1


async def test_a_job_waits_a_lease_for_its_revision_to_come_back(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    begun = await fleet.submit()
    claim = fleet.claim()
    fleet.append(claim, 0, 5)
    fleet.claims.release(begun, claim.nonce)
    assert fleet.claim_as("other", OTHER_REVISION) is None


async def test_a_job_whose_revision_is_gone_restarts_and_tells_its_watchers(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    job_id = await fleet.submit()
    claim = fleet.claim()
    fleet.append(claim, 0, 5, 6)
    fleet.claims.release(job_id, claim.nonce)
    fleet.let_requeue_be_long_ago(job_id)
    heir = fleet.claim_as("other", OTHER_REVISION)
    assert heir is not None
    assert (heir.record.completion_tokens, heir.record.used_ms) == (0, 0)
    assert fleet.events.committed(job_id) == []
    fleet.append(heir, 0, 7)
    events = await fleet.reader.after(job_id, 0)
    assert [e.eid for e in events] == [1, 2, 3]
    assert isinstance(events[1].event, RestartEvent)
    assert [e.token_ids for e in fleet.events.committed(job_id)] == [(7,)]


async def test_the_result_of_a_restarted_job_that_is_ended_without_a_worker_is_what_holds(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    job_id = await fleet.submit()
    claim = fleet.claim()
    fleet.append(claim, 0, 5, 6)
    fleet.claims.restart(job_id, claim.nonce)
    fleet.claims.restart(job_id, claim.nonce)  # repeated, as after a lost reply
    fleet.append(claim, 0, 7)
    fleet.claims.release(job_id, claim.nonce)
    await fleet.submissions.cancel(job_id, "key-a")
    assert (await fleet.record(job_id)).choices[0].token_ids == (7,)
    assert (await fleet.record(job_id)).last_eid == 4


# Jobs of several choices


async def test_a_suspect_of_several_choices_has_to_pass_what_all_of_them_may_have_lost(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    job_id = await fleet.submit(n=2)
    first = fleet.claim_as("dead")
    assert first is not None
    fleet.append(first, 0, 5, 6)
    fleet.append(first, 0, 7, choice=1)
    fleet.die("dead")
    assert client.hget(keys.job(job_id), "suspect") == str(3 + 2 * 8)

    second = fleet.claim_as("alive")
    assert second is not None
    fleet.append(second, 2, *range(14))
    fleet.append(second, 1, 7)  # of choice 0, and refused: all is committed there
    assert client.hexists(keys.job(job_id), "suspect")
    fleet.append(second, 1, 8, 9, choice=1)
    assert not client.hexists(keys.job(job_id), "suspect")
    assert fleet.crashes(job_id) == 0


async def test_a_job_begun_in_another_choice_alone_waits_for_its_revision(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    job_id = await fleet.submit(n=2)
    claim = fleet.claim_as("dead")
    assert claim is not None
    fleet.append(claim, 0, 7, choice=1)
    fleet.die("dead")
    assert fleet.claim_as("other", OTHER_REVISION) is None
    fleet.let_requeue_be_long_ago(job_id)
    again = fleet.claim_as("other", OTHER_REVISION)
    assert again is not None
    assert again.record.completion_tokens == 0
    assert RestartEvent() in [event.event for event in await fleet.reader.after(job_id, 0)]


async def test_an_end_without_a_worker_keeps_what_every_choice_had(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    fleet = Fleet(client, aclient)
    job_id = await fleet.submit(n=3)
    claim = fleet.claim_as("dead")
    assert claim is not None
    fleet.append(claim, 0, 5, choice=2)
    fleet.append(claim, 0, 6, 7)
    fleet.append(claim, 1, 8, choice=2)
    await fleet.submissions.cancel(job_id, KEY)
    fleet.die("dead")
    record = await fleet.record(job_id)
    assert record.status is JobStatus.CANCELLED
    assert [(choice.text, choice.token_ids) for choice in record.choices] == [
        ("<6><7>", (6, 7)),
        ("", ()),
        ("<5><8>", (5, 8)),
    ]
    assert client.hget(keys.COUNTERS, "generation_tokens") == "4"
