from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from api import attendance
from api.attendance import Attendance
from api.cancelling import Canceller
from common.errors import RedisUnavailableError, TaskNotFoundError
from common.schemas import JobStatus
from common.waited import WaitedJobs


class Jobs:
    """A canceller and marks that do what the test says."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.failures: list[Exception] = []
        self.remaining: list[float] = []
        self.num_marks = 0
        self.has_cancelled = asyncio.Event()

    async def cancel(self, job_id: str, key_id: str) -> JobStatus:
        if self.failures:
            raise self.failures.pop(0)
        self.cancelled.append(job_id)
        self.has_cancelled.set()
        return JobStatus.CANCELLED

    async def mark(self, job_ids: Sequence[str]) -> None:
        self.num_marks += 1

    async def remaining_s(self, job_id: str) -> float:
        return self.remaining.pop(0) if self.remaining else 0.0


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr(attendance, "RETRY_S", 0.0)
    return Jobs()


@pytest.fixture
def attended(jobs: Jobs) -> Attendance:
    return Attendance(cast(Canceller, jobs), cast(WaitedJobs, jobs))


async def test_a_job_whose_client_got_its_answer_is_left_alone(
    attended: Attendance, jobs: Jobs
) -> None:
    with attended.of(["a"], "key", is_keyed=False) as visit:
        visit.is_over = True
    await attended.close()
    assert jobs.cancelled == []


async def test_jobs_whose_client_has_gone_are_cancelled_all(
    attended: Attendance, jobs: Jobs
) -> None:
    with attended.of(["a", "b"], "key", is_keyed=False):
        pass
    await attended.close()
    assert jobs.cancelled == ["a", "b"]


async def test_a_cancel_is_tried_again_while_redis_is_away(
    attended: Attendance, jobs: Jobs
) -> None:
    jobs.failures = [RedisUnavailableError("away"), RedisUnavailableError("away")]
    with attended.of(["a"], "key", is_keyed=False):
        pass
    await attended.close()
    assert jobs.cancelled == ["a"]


async def test_a_job_that_is_gone_keeps_the_others_from_nothing(
    attended: Attendance, jobs: Jobs
) -> None:
    jobs.failures = [TaskNotFoundError("gone")]
    with attended.of(["a", "b"], "key", is_keyed=False):
        pass
    await attended.close()
    assert jobs.cancelled == ["b"]


async def test_a_job_with_a_key_is_cancelled_only_when_its_mark_has_passed(
    attended: Attendance, jobs: Jobs
) -> None:
    jobs.remaining = [0.001, 0.001]
    with attended.of(["a"], "key", is_keyed=True):
        pass
    await jobs.has_cancelled.wait()
    assert jobs.remaining == []
    assert jobs.num_marks >= 1


async def test_at_the_end_of_a_gateway_jobs_with_a_key_are_left_to_their_clients(
    attended: Attendance, jobs: Jobs
) -> None:
    jobs.remaining = [30.0]
    with attended.of(["a"], "key", is_keyed=True):
        pass
    await attended.close()
    assert jobs.cancelled == []
