"""What a heartbeat says of the jobs that a worker holds, and what it does with the answer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from common.fleet import WorkerInfo
from common.job_store import Claim, Claims, Holding, Pulse
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobStatus
from worker.backends.base import BackendEnd, Delta
from worker.held_jobs import HeldJob, HeldJobs
from worker.leases import Heartbeat

STALL_S = 30.0


class FakeClaims:
    """Answers every heartbeat with the given pulse."""

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self.held: list[list[Holding]] = []

    def heartbeat(self, announcement: str, held: list[Holding]) -> Pulse:
        self.held.append(list(held))
        return self.pulse


def held_job(job_id: str) -> HeldJob:
    record = JobRecord(
        *(job_id, JobStatus.PROCESSING, "key", "m", "normal"),
        SamplingSpec(5, 60, 1),
        *("token", "request", 0, 1, 0, 0, 250),
    )
    return HeldJob(Claim(record, f"nonce-{job_id}"), (1,), [], 5)


def beat(pulse: Pulse, step_s: float = 0.0, end: str | None = None) -> tuple[Any, ...]:
    """One beat of a worker that holds `a` and `b`; `end` names one that has its outcome."""
    claims, held, aborted, left = FakeClaims(pulse), HeldJobs(), [], []
    jobs = {name: held_job(name) for name in ("a", "b")}
    for job in jobs.values():
        held.add(job)
    if end is not None:
        jobs[end].add(
            Delta(f"nonce-{end}", 0, (), (), 0.25, BackendEnd(JobStatus.COMPLETED, "stop"))
        )
    heartbeat = Heartbeat(
        cast(Claims, claims),
        cast(Any, None),
        held,
        lambda: WorkerInfo("w", "h", 1, "0", "cpu", 8, 2),
        lambda: step_s,
        aborted.append,
        lambda: left.append(True),
        lease_s=15,
        engine_stall_s=STALL_S,
    )
    heartbeat.beat()
    assert bool(left) == (not claims.held), "it leaves, or it beats"
    return claims.held, jobs, aborted


def test_every_held_job_is_renewed_with_its_nonce_and_its_time() -> None:
    [held], _, _ = beat(Pulse((), ()))
    assert held == [Holding("a", "nonce-a", 250), Holding("b", "nonce-b", 250)]


@pytest.mark.parametrize(("step_s", "num_beats"), [(STALL_S, 1), (STALL_S + 1, 0)])
def test_a_worker_whose_engine_is_hung_leaves_and_renews_nothing(
    step_s: float, num_beats: int
) -> None:
    beats, _, _ = beat(Pulse((), ()), step_s)
    assert len(beats) == num_beats


def test_a_lost_job_is_let_go_and_aborted() -> None:
    _, jobs, aborted = beat(Pulse(("nonce-a",), ()))
    assert (jobs["a"].fate, jobs["b"].fate) == ("lost", None)
    assert aborted == ["nonce-a"]


def test_a_job_whose_end_is_on_its_way_to_redis_is_not_lost() -> None:
    _, jobs, aborted = beat(Pulse(("nonce-a",), ()), end="a")
    assert jobs["a"].fate is None
    assert aborted == []


def test_a_cancelled_job_is_aborted_and_held_until_its_end() -> None:
    _, jobs, aborted = beat(Pulse((), ("nonce-b",)))
    assert aborted == ["nonce-b"]
    assert jobs["b"].fate is None
