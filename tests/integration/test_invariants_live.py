"""The checker on a service that moves: what a second look does not show does not count."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from common import keys
from common.connection import SyncRedis, connect, connect_async
from common.errors import QueueFullError
from common.event_stream import Append, EventWriter
from common.events import TokenEvent
from common.invariants import Checker, Kind
from common.job_store import Claim, Claims, FencedError, Submissions
from common.reaping import Reaping
from common.schemas import ChoiceResult, JobSpec, JobStatus, Outcome, member_ids
from tests.integration.stored_jobs import StoredJobs, check, kinds, store_jobs
from tests.integration.stores import KEY, MODEL, REVISION, Bench, announcement, settings, spec


@pytest.fixture
async def jobs(bench: Bench) -> AsyncIterator[StoredJobs]:
    """Emptied after the test: what it has broken is its own business."""
    yield await store_jobs(bench)
    bench.client.flushall()


# The second look


async def test_what_a_second_look_does_not_show_does_not_count(jobs: StoredJobs) -> None:
    jobs.client.zrem(keys.LEASES, jobs.running)
    assert kinds(jobs.client, pause=lambda seconds: jobs.add_lease(jobs.running)) == set()


async def test_what_comes_back_in_another_state_is_looked_at_again(jobs: StoredJobs) -> None:
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        jobs.set_field(jobs.running, "nonce", f"claim {len(looks)}")
        if len(looks) == 2:
            jobs.add_lease(jobs.running)

    jobs.client.zrem(keys.LEASES, jobs.running)
    assert kinds(jobs.client, pause=pause) == set()
    assert len(looks) == 2


async def test_what_every_look_shows_counts_in_whatever_state(jobs: StoredJobs) -> None:
    def pause(seconds: float) -> None:
        jobs.client.hincrby(keys.job(jobs.running), "nonce", 1)

    jobs.client.hset(keys.job(jobs.running), "nonce", 1)
    jobs.client.zrem(keys.LEASES, jobs.running)
    assert kinds(jobs.client, pause=pause) == {Kind.NO_LEASE}


# Permits on a live service


async def test_permits_that_a_reaper_tops_up_are_not_missing(jobs: StoredJobs) -> None:
    jobs.client.delete(keys.permits(MODEL))
    report = check(jobs.client, pause=lambda seconds: jobs.bench.reap())
    assert (report.violations, report.notes) == ((), ())


async def test_permits_that_no_reap_tops_up_are_missing(jobs: StoredJobs) -> None:
    """The reapers run, and do not see the model's line."""
    jobs.client.delete(keys.permits(MODEL))
    report = check(jobs.client, pause=lambda seconds: jobs.client.incr(keys.REAPED))
    [violation] = report.violations
    assert (violation.kind, violation.found) == (Kind.MISSING_PERMITS, "1 are missing")


async def test_permits_that_nobody_could_top_up_are_noted_alone(jobs: StoredJobs) -> None:
    jobs.client.delete(keys.permits(MODEL))
    report = check(jobs.client)
    assert report.violations == ()
    [note] = report.notes
    assert note.startswith(f"{MODEL}: permits are missing, and no reaper runs")


async def test_jobs_of_a_model_that_nobody_knows_are_noted(jobs: StoredJobs) -> None:
    """As `baton jobs check` runs once the model has been taken out of the settings."""

    def pause(seconds: float) -> None:
        jobs.bench.reap()

    report = Checker(jobs.client, settings(model_name="another"), pause=pause).run()
    assert report.violations == ()
    assert report.notes == ("1 task waits for 'm', which is not configured (MODEL_NAME)",)


async def test_jobs_of_a_model_that_a_worker_serves_are_not_noted(jobs: StoredJobs) -> None:
    """Its settings are another's, as while they are being changed."""

    def pause(seconds: float) -> None:
        jobs.bench.reap()

    jobs.bench.claims.heartbeat(announcement("ready"), [])
    report = Checker(jobs.client, settings(model_name="another"), pause=pause).run()
    assert (report.violations, report.notes) == ((), ())


async def test_permits_that_claims_took_since_the_last_reap_are_not_missing(bench: Bench) -> None:
    """A deep backlog: the list is at its cap at a reap only, and workers take from it."""
    for _ in range(60):
        await bench.submit()
    polls = []

    def pause(seconds: float) -> None:
        polls.append(seconds)
        bench.claim()
        bench.client.rpop(keys.permits(MODEL))
        bench.client.rpop(keys.permits(MODEL))  # as a cap would have it: less than the line
        if len(polls) % 3 == 0:
            bench.reap()

    bench.client.rpop(keys.permits(MODEL))
    assert kinds(bench.client, pause=pause) == set()


async def test_permits_of_jobs_that_are_passed_over_are_not_missing(bench: Bench) -> None:
    """An idle worker that may not run a job yet spends its permit at once, again and again."""
    job_id = await bench.submit()
    bench.append(bench.claim(), 0, 5)
    bench.let_lease_pass(job_id)

    def pause(seconds: float) -> None:
        bench.reap()
        bench.client.delete(keys.permits(MODEL))

    pause(0)
    assert kinds(bench.client, pause=pause) == set()


# A live service


class LiveService:
    """Gateways, workers and a reaper, each a thread that goes on until `stop` is set.

    Workers finish, hand back, restart, let leases pass and die, by lot.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.stop = threading.Event()
        self.num_ended = 0
        self._url = url
        self._seed = seed

    def gateway(self, number: int) -> None:
        asyncio.run(self._submit_and_cancel(random.Random(f"gateway {number} {self._seed}")))

    async def _submit_and_cancel(self, rng: random.Random) -> None:
        aclient = connect_async(self._url)
        limits = settings(queue_capacity=40, rate_limit_burst=1_000_000)
        submissions, ids = Submissions(aclient, limits), []
        while not self.stop.is_set():
            jobs = _drawn_group(rng)
            try:
                await submissions.submit(*jobs)
            except QueueFullError:
                await asyncio.sleep(0.01)
                continue
            ids += [job.job_id for job in jobs]
            if rng.random() < 0.2:
                await submissions.cancel(rng.choice(ids[-20:]), KEY)
        await aclient.aclose()

    def worker(self, number: int) -> None:
        rng = random.Random(f"worker {number} {self._seed}")
        with connect(self._url) as client:
            claims = Claims(client, settings(), f"w{number}")
            while not self.stop.is_set():
                if client.brpop([keys.permits(MODEL)], timeout=1) is None:
                    continue
                revision = rng.choice((REVISION, REVISION, REVISION, "r2:float32"))
                claim = claims.claim({MODEL: revision})
                if claim is not None:
                    with suppress(FencedError):
                        self._run(client, claims, claim, rng, f"w{number}")

    def _run(
        self, client: SyncRedis, claims: Claims, claim: Claim, rng: random.Random, worker: str
    ) -> None:
        job_id, nonce = claim.record.job_id, claim.nonce
        writer = EventWriter(client)
        committed: list[list[int]] = [[] for _ in range(claim.record.sampling.n)]
        for event in writer.committed(job_id):
            committed[event.choice] += event.token_ids
        if rng.random() < 0.1:
            claims.restart(job_id, nonce)
            committed = [[] for _ in committed]
        for _ in range(rng.randint(0, 6)):
            choice = rng.randrange(len(committed))
            token = len(committed[choice])
            event = TokenEvent(token, (token,), (f"{token} ",), choice)
            [answer] = writer.append([Append(job_id, nonce, event, 1)])
            if answer.fenced:
                return
            committed[choice].append(token)
        lot = rng.random()
        if lot < 0.1:
            claims.release(job_id, nonce)
        elif lot < 0.2:
            client.zadd(keys.LEASES, {job_id: 1}, xx=True)
        elif lot < 0.3:
            Reaping(client, settings()).hand_back(worker)
        else:
            choices = tuple(
                ChoiceResult("".join(f"{i} " for i in ids) + "end", tuple(ids), "stop")
                for ids in committed
            )
            outcome = Outcome(JobStatus.COMPLETED, choices, ("end",) * len(choices), 3)
            claims.finish(job_id, nonce, outcome, 1)
            self.num_ended += 1

    def reaper(self) -> None:
        with connect(self._url) as client:
            while not self.stop.wait(0.02):
                Reaping(client, settings()).reap()


def _drawn_group(rng: random.Random) -> list[JobSpec]:
    """One job, or some that are submitted together, of one to three choices."""
    one = spec(rng.choice(("high", "normal", "low")))
    sampling = replace(one.sampling, n=rng.choice((1, 1, 2, 3)))
    ids = member_ids(one.job_id, rng.choice((1, 1, 1, 2, 5)))
    return [replace(one, job_id=job_id, sampling=sampling) for job_id in ids]


@pytest.mark.parametrize("seed", [1, 2])
def test_on_a_live_service_nothing_is_found(redis_url: str, seed: int) -> None:
    service = LiveService(redis_url, seed)
    reports = []
    with ThreadPoolExecutor() as pool:
        parts = [pool.submit(service.gateway, 1), pool.submit(service.reaper)]
        parts += [pool.submit(service.worker, number) for number in range(3)]
        try:
            with connect(redis_url) as client:
                while len(reports) < 6 or service.num_ended < 100:
                    assert not any(part.done() for part in parts)
                    reports.append(check(client))
        finally:
            service.stop.set()
        for part in parts:
            part.result()
    assert [report.violations for report in reports] == [()] * len(reports)
    assert reports[-1].num_jobs >= 100
