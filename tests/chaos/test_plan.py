"""Jobs and faults are pure functions of the seed, and hold everything that a run must try."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from tests.chaos.faults import MEAN_PAUSE_S, SHORT_LIST, Fault, FaultKind, draw_faults
from tests.chaos.fleet import LEASE_S
from tests.chaos.jobs import KEYS, draw_jobs
from tests.chaos.run import SHORT_JOBS, SHORT_SEED

NUM_FAULTS = 250


def faults_of(seed: int) -> list[Fault]:
    return list(islice(draw_faults(seed), NUM_FAULTS))


def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    assert faults_of(7) == faults_of(7)
    assert faults_of(7) != faults_of(8)


def test_the_same_seed_gives_the_same_jobs_and_another_seed_others() -> None:
    assert draw_jobs(7, 50) == draw_jobs(7, 50)
    assert draw_jobs(7, 50) != draw_jobs(8, 50)


def test_more_jobs_of_a_seed_begin_with_the_same_ones() -> None:
    assert draw_jobs(7, 60)[:20] == draw_jobs(7, 20)


def test_every_kind_of_fault_comes_in_every_round() -> None:
    counts = Counter(fault.kind for fault in faults_of(7)[:26])
    assert set(counts) == set(FaultKind) - {FaultKind.KILL_UPSTREAM}
    assert faults_of(7)[:26] != faults_of(7)[26:52]


def test_the_server_behind_the_workers_is_broken_in_every_round_where_there_is_one() -> None:
    counts = Counter(fault.kind for fault in islice(draw_faults(7, has_upstream=True), 28))
    assert set(counts) == set(FaultKind)


def test_long_black_holes_outlast_a_lease_and_short_ones_do_not() -> None:
    for fault in faults_of(7):
        if fault.kind is FaultKind.LONG_BLACK_HOLE:
            assert fault.duration_s > LEASE_S
        if fault.kind is FaultKind.BLACK_HOLE:
            assert fault.duration_s < LEASE_S


def test_faults_come_at_the_rate_that_is_said() -> None:
    pauses = [fault.pause_s for fault in faults_of(7)]
    assert all(pause_s > 0 for pause_s in pauses)
    assert 0.7 * MEAN_PAUSE_S < sum(pauses) / len(pauses) < 1.3 * MEAN_PAUSE_S


def test_jobs_are_greedy_and_sampled_stopped_cancelled_and_of_every_key() -> None:
    for jobs in (draw_jobs(7, 200), draw_jobs(SHORT_SEED, SHORT_JOBS)):
        assert {job.key for job in jobs} == set(KEYS)
        assert {job.body["temperature"] == 0 for job in jobs} == {True, False}
        assert {"stop" in job.body for job in jobs} == {True, False}
        assert {job.cancel_after_s is None for job in jobs} == {True, False}
        assert not any("stop" in j.body for j in jobs if j.cancel_after_s is not None)
        assert any(plan.hangs_up_after_s for job in jobs for plan in job.watchers)
        assert all(job.watchers for job in jobs)


def test_the_short_list_has_one_fault_of_each_group() -> None:
    kinds = {fault.kind for fault in SHORT_LIST}
    assert kinds >= {
        FaultKind.KILL_WORKER,
        FaultKind.KILL_GATEWAY,
        FaultKind.KILL_REDIS,
        FaultKind.REFUSE,
        FaultKind.TERM_WORKER,
    }
