"""Random interleavings of everything that happens to jobs, each step compared with the model.

Several workers, repeated calls as after lost replies, and calls that come too late. After every
step Redis has to hold what the model holds, to have told what the model tells, and to obey the
invariants. Time passes by rules of its own: leases are long, and are moved into the past by hand.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.connection import connect, connect_async
from common.events import TokenEvent
from common.invariants import Kind
from common.job_store import Holding, Idempotency
from common.sampling import SamplingSpec
from common.schemas import JobClass, JobSpec, JobStatus, Outcome, member_ids
from tests.integration.job_draws import (
    API_KEYS,
    REVISIONS,
    SAME,
    WORKERS,
    choices,
    few,
    idempotencies,
    job_classes,
    picks,
    rare_events,
    revisions,
    seldom,
    workers,
)
from tests.integration.job_model import TRIAL_TOKENS, JobModel
from tests.integration.job_scripts import JobScripts
from tests.integration.job_state import AGO, LONG_AGO, Call, Message, ModelJob
from tests.integration.stores import MODEL
from tests.integration.stores import settings as store_settings

LIMITS = store_settings(lease_s=1000, queue_capacity=6, max_attempts=2)

T = TypeVar("T")


if_any_can_run = precondition(lambda self: self.running() or self.waiting())


class JobMachine(RuleBasedStateMachine):
    """The scripts and the model side by side."""

    def __init__(self, scripts: JobScripts) -> None:
        super().__init__()
        self.scripts = scripts
        self.specs: list[tuple[list[JobSpec], Idempotency | None]] = []
        self.calls: list[Call] = []
        self.used_ms = 0
        self.agrees = False

    @initialize(
        claims=st.sampled_from([0, 12, 14]),
        jobs=st.lists(job_classes, min_size=3, max_size=6),
        num_begun=st.integers(0, 3),
        num_announced=st.integers(0, 2),
    )
    def begin(self, claims: int, jobs: list[JobClass], num_begun: int, num_announced: int) -> None:
        self.scripts.begin(claims)
        self.model = JobModel(LIMITS.queue_capacity, LIMITS.max_attempts, claims)
        for job_class in jobs:
            is_last = len(self.specs) == len(jobs) - 1
            num_choices = 1 + len(self.specs) % 2
            self.submit(job_class, API_KEYS[0], SAME if is_last else None, 1, num_choices)
        self.claim(WORKERS[0], REVISIONS[0], num_begun, False)
        for call in self.running():
            self.call_append(call, 0, 1)
        for worker, revision in list(zip(WORKERS, REVISIONS, strict=False))[:num_announced]:
            self.call_heartbeat(worker, revision, self.calls)

    def both(self, call: Callable[[Any], T]) -> T:
        """Make a call of both sides; they have to answer the same."""
        self.agrees = False
        answer, expected = call(self.scripts), call(self.model)
        assert answer == expected
        self.agrees = True
        return answer

    @invariant()
    def agree(self) -> None:
        self.agrees = False
        assert self.scripts.state() == self.model.state()
        said = self.scripts.next_messages(len(self.model.said))
        # The messages about different jobs may come in any order.
        assert sorted(said, key=_job_id) == sorted(self.model.said, key=_job_id)
        self.model.said.clear()
        trials = [job.worker for job in self.jobs(lambda job: job.is_tried)]
        assert len(set(trials)) == len(trials), "a worker tries two suspects"
        self.agrees = True

    def teardown(self) -> None:
        if self.agrees:  # else it has failed already
            expected = {Kind.MISSING_PERMITS}  # until the next reap
            if self.jobs(lambda job: job.is_deleted):
                expected |= {Kind.GHOST, Kind.COUNTERS}
            assert [v for v in self.scripts.violations() if v.kind not in expected] == []

    # Who and what there is

    def jobs(self, wanted: Callable[[ModelJob], bool] = lambda _: True) -> list[ModelJob]:
        return [job for job in reversed(self.model.jobs.values()) if wanted(job)]

    def job(self, call: Call) -> ModelJob:
        return self.model.jobs[call.job_id]

    def waiting(self) -> list[ModelJob]:
        return self.jobs(lambda job: job.is_waiting)

    def running(self) -> list[Call]:
        """The claims that hold."""
        calls = [call for call in self.calls if call.job_id]
        return [call for call in reversed(calls) if self.job(call).is_claimed_by(call.nonce)]

    def a_claim(self, pick: int) -> Call:
        """One that holds; a new one where there is none, so that much happens to many jobs."""
        if not self.running():
            revision = self.waiting()[-1].revision or REVISIONS[0]
            self.claim(WORKERS[pick % len(WORKERS)], revision, 1, False)
        return _pick(self.running(), pick)

    def late(self) -> list[Call]:
        """The claims that hold no more."""
        calls = [call for call in self.calls if call.job_id]
        return [call for call in reversed(calls) if not self.job(call).is_claimed_by(call.nonce)]

    # The gateway

    @rule(
        job_class=job_classes,
        key_id=st.sampled_from(API_KEYS),
        idempotency=idempotencies,
        count=st.sampled_from([1, 1, 1, 2, 3]),
        num_choices=st.sampled_from([1, 1, 2, 3]),
    )
    def submit(
        self,
        job_class: JobClass,
        key_id: str,
        idempotency: Idempotency | None,
        count: int,
        num_choices: int,
    ) -> None:
        """Some jobs, in a group where there are several."""
        sampling = SamplingSpec(max_tokens=10, time_limit_s=60, seed=7, n=num_choices)
        place = (key_id, MODEL, job_class, sampling)
        specs = [
            JobSpec(job_id, *place, f"token of {job_id}", "request", prompt_ids=(1, 2, 3))
            for job_id in member_ids(f"job-{len(self.specs):03}", count)
        ]
        self.specs.append((specs, idempotency))
        self.both(lambda side: side.submit(specs, idempotency))

    @precondition(lambda self: self.jobs())
    @rule(pick=picks, is_stranger=seldom)
    def cancel(self, pick: int, is_stranger: bool) -> None:
        spec = _pick(sorted(self.jobs(), key=lambda job: job.status.is_final), pick).spec
        key_id = "key-c" if is_stranger else spec.key_id
        self.both(lambda side: side.cancel(spec.job_id, key_id))

    # A worker

    @if_any_can_run
    @rule(worker=workers, revision=revisions, count=few, is_much_later=st.booleans())
    def claim(self, worker: str, revision: str, count: int, is_much_later: bool) -> None:
        """Much later: workers of the revision that began a job had time to come back."""
        for job in self.jobs(lambda job: is_much_later and job.is_waiting and bool(job.requeued)):
            self.both(lambda side, job_id=job.job_id: side.let_wait_pass(job_id))  # type: ignore[misc]
        for _ in range(count):
            call = Call(worker, f"nonce-{len(self.calls):03}", revision)
            self.calls.append(call)
            self.call_claim(call)

    @rule(pick=picks, is_claim=st.booleans())
    def call_again(self, pick: int, is_claim: bool) -> None:
        """The reply to a claim or a submission was lost, or the queue was full."""
        if is_claim and self.calls:
            self.call_claim(_pick(self.calls[::-1], pick))
            return
        specs, idempotency = _pick(self.specs[::-1], pick)
        known = self.model.jobs.get(specs[0].job_id)
        if known is None or known.has_record:
            self.both(lambda side: side.submit(specs, idempotency))

    def call_claim(self, call: Call) -> None:
        claimed = self.both(lambda side: side.claim(call.worker, call.nonce, call.revision))
        if claimed is not None:
            call.job_id = claimed.job_id

    @if_any_can_run
    @rule(
        pick=picks,
        count=st.sampled_from([1, 3, TRIAL_TOKENS]),
        choice=choices,
        is_repeated=seldom,
    )
    def append(self, pick: int, count: int, choice: int, is_repeated: bool) -> None:
        call = self.a_claim(pick)
        committed = _pick(self.job(call).choices, choice)
        position = len(committed)
        for _ in range(1 + is_repeated):
            self.call_append(call, position, count, choice)

    @if_any_can_run
    @rule(pick=picks, shift=st.integers(-3, 3), choice=choices)
    def append_elsewhere(self, pick: int, shift: int, choice: int) -> None:
        """An earlier append once more, or one that comes before another."""
        call = self.a_claim(pick)
        committed = _pick(self.job(call).choices, choice)
        self.call_append(call, max(0, len(committed) + shift), 2, choice)

    def call_append(self, call: Call, position: int, count: int, choice: int = 0) -> None:
        """Of one choice, counted on from the first where there are fewer."""
        used_ms = self.work()
        ids = tuple(range(used_ms, used_ms + count))
        texts = tuple(f"<{token}>" for token in ids)
        event = TokenEvent(position, ids, texts, choice % len(self.job(call).choices))
        self.both(lambda side: side.append(call.job_id, call.nonce, event, used_ms))

    def work(self) -> int:
        """Execution time so far, in ms; never the same twice."""
        self.used_ms += 10
        return self.used_ms

    @if_any_can_run
    @rule(
        pick=picks,
        status=st.sampled_from([status for status in JobStatus if status.is_final]),
        shift=st.sampled_from([0, 0, 0, -1, 1]),
        is_repeated=st.booleans(),
    )
    def finish(self, pick: int, status: JobStatus, shift: int, is_repeated: bool) -> None:
        """With too few or too many tokens where there is a shift."""
        call = self.a_claim(pick)
        outcome = self.job(call).outcome(status, shift)
        for _ in range(1 + is_repeated):
            self.call_finish(call, outcome)

    def call_finish(self, call: Call, outcome: Outcome) -> None:
        used_ms = self.work()
        self.both(lambda side: side.finish(call.job_id, call.nonce, outcome, used_ms))

    @if_any_can_run
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        call = self.a_claim(pick)
        self.both(lambda side: side.release(call.job_id, call.nonce))

    @if_any_can_run
    @rule(pick=picks, is_repeated=st.booleans())
    def restart(self, pick: int, is_repeated: bool) -> None:
        call = self.a_claim(pick)
        for _ in range(1 + is_repeated):
            self.both(lambda side: side.restart(call.job_id, call.nonce))

    @precondition(lambda self: self.late())
    @rule(pick=picks)
    def speak_too_late(self, pick: int) -> None:
        """A worker does not know yet that its claim holds no more."""
        call = _pick(self.late(), pick)
        self.call_append(call, len(self.job(call).choices[0]), 1)
        self.both(lambda side: side.restart(call.job_id, call.nonce))
        self.call_finish(call, self.job(call).outcome(JobStatus.COMPLETED))
        self.both(lambda side: side.release(call.job_id, call.nonce))

    @if_any_can_run
    @rule(pick=picks, revision=revisions, is_reply_lost=seldom)
    def heartbeat(self, pick: int, revision: str, is_reply_lost: bool) -> None:
        """Without what was claimed last, where that reply was lost."""
        worker = self.a_claim(pick).worker
        self.call_heartbeat(worker, revision, self.calls[:-1] if is_reply_lost else self.calls)

    def call_heartbeat(self, worker: str, revision: str | None, known: list[Call]) -> None:
        used_ms = self.work()
        mine = [call for call in known if call.worker == worker and call.job_id]
        held = [Holding(call.job_id, call.nonce, used_ms) for call in mine]
        self.both(lambda side: side.heartbeat(worker, revision, held))

    # What goes wrong

    @if_any_can_run
    @rule(worker=workers, revision=revisions, claims=st.integers(0, 3))
    def die(self, worker: str, revision: str, claims: int) -> None:
        """Its launcher sees it."""
        if claims:
            self.claim(worker, revision, claims, False)
        self.both(lambda side: side.hand_back(worker))

    @if_any_can_run
    @rule(pick=picks, is_host_lost=st.booleans(), reaped=st.sampled_from(["later", "once", "each"]))
    def lease_passes(self, pick: int, is_host_lost: bool, reaped: str) -> None:
        """Of one job, or of all jobs of its worker, the first claim first."""
        one = self.a_claim(pick)
        for call in self.running()[::-1] if is_host_lost else [one]:
            if call.worker == one.worker and call in self.running():  # not reaped meanwhile
                self.both(lambda side, job_id=call.job_id: side.let_lease_pass(job_id))  # type: ignore[misc]
                if reaped == "each":
                    self.reap(False)
        if reaped == "once":
            self.reap(False)

    @precondition(lambda self: self.model.has_work_for_reaper())
    @rule(is_after_outage=seldom)
    def reap(self, is_after_outage: bool) -> None:
        self.both(lambda side: side.reap(is_after_outage))

    @precondition(lambda self: self.model.heard)
    @rule(pick=picks, how=st.sampled_from(["leaves", AGO, LONG_AGO]), is_noticed=st.booleans())
    def worker_is_not_heard_of(self, pick: int, how: Any, is_noticed: bool) -> None:
        worker = _pick(sorted(self.model.heard), pick)
        if how != "leaves":
            self.both(lambda side: side.let_announcement_pass(worker, how))
        elif all(call.worker != worker for call in self.running()):  # it hands them back first
            self.both(lambda side: side.leave(worker))
        if is_noticed:
            self.reap(False)

    @rule(pick=picks, event=rare_events)
    def something_rare_happens(self, pick: int, event: str) -> None:
        """Nothing does where there is none that it can happen to."""
        ended = [job.job_id for job in self.jobs(lambda job: job.status.is_final)]
        untouched = [job.job_id for job in self.waiting() if not job.events]
        if event == "permits are spent":
            self.both(lambda side: side.spend_permits())
        elif event == "idempotency keys pass":  # and one of them is used again
            self.both(lambda side: side.let_idempotency_pass())
            self.submit("normal", API_KEYS[0], SAME, 1, 1)
        elif event == "a model cannot be loaded":
            self.model_cannot_be_loaded(but_by_one=pick == 0)
        elif event == "a record is deleted by hand":
            if untouched:
                self.both(lambda side: side.delete_record(_pick(untouched, pick)))
        elif ended:
            is_record = event == "a record passes"
            self.both(lambda side: side.let_lifetime_pass(_pick(ended, pick), is_record))

    def model_cannot_be_loaded(self, but_by_one: bool) -> None:
        for worker in sorted({*self.model.heard, WORKERS[0]}):
            self.call_heartbeat(worker, None, self.calls)
        if but_by_one:
            self.call_heartbeat(WORKERS[1], REVISIONS[0], self.calls)
        self.both(lambda side: side.fail_ready())


def _pick(candidates: list[T], pick: int) -> T:
    return candidates[pick % len(candidates)]


def _job_id(message: Message) -> str:
    return message[0]


@pytest.fixture
def scripts(redis_url: str) -> Iterator[JobScripts]:
    with connect(redis_url) as client, asyncio.Runner() as runner:
        aclient = connect_async(redis_url)
        scripts = JobScripts(client, aclient, runner, LIMITS)
        yield scripts
        scripts.close()
        runner.run(aclient.aclose())


def run(scripts: JobScripts, seeds: Iterable[int]) -> None:
    # Short runs: in a longer one most examples are variations of a few.
    for number in seeds:
        run_state_machine_as_test(
            cast(Any, seed(number)(lambda: JobMachine(scripts))),
            settings=settings(
                max_examples=10,
                stateful_step_count=40,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


# A failure is made as short as it can be, which takes minutes.
@pytest.mark.timeout(600)
def test_the_scripts_do_what_the_model_does(scripts: JobScripts) -> None:
    run(scripts, range(12))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_scripts_do_what_the_model_does_in_many_more_cases(scripts: JobScripts) -> None:
    run(scripts, (random.randrange(2**32) for _ in range(250)))
