from __future__ import annotations

from dataclasses import replace

from api.job_views import eta_s, metrics_of, result_view, status_view
from common.fleet import Fleet, WorkerInfo
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobStatus

WAITING = JobRecord(
    job_id="j",
    status=JobStatus.QUEUED,
    key_id="k",
    model="m",
    job_class="normal",
    sampling=SamplingSpec(max_tokens=10, time_limit_s=9, seed=1),
    stream_token="t",
    request_id="r",
    created_ms=1_000,
    attempts=0,
    last_eid=0,
    completion_tokens=0,
    used_ms=0,
)
RUNNING = replace(WAITING, status=JobStatus.PROCESSING, attempts=1, started_ms=2_000)


def fleet(running: int, slots: int) -> Fleet:
    worker = WorkerInfo("w", "h", 1, "0", "cpu", slots, running)
    return Fleet((worker,), {}, running, {}, 0, None)


def test_with_a_free_slot_a_waiting_job_takes_as_long_as_its_tokens() -> None:
    assert eta_s(WAITING, 1, fleet(running=1, slots=4), 0.8) == 8.0


def test_each_round_of_jobs_in_front_adds_its_time() -> None:
    assert eta_s(WAITING, 1, fleet(running=4, slots=4), 0.8) == 10.0
    assert eta_s(WAITING, 4, fleet(running=4, slots=4), 0.8) == 16.0


def test_nothing_is_estimated_without_workers_pace_or_place() -> None:
    assert eta_s(WAITING, 1, None, 8.0) is None
    assert eta_s(WAITING, 1, fleet(0, 4), None) is None
    assert eta_s(WAITING, None, fleet(0, 4), 8.0) is None
    assert eta_s(WAITING, 1, Fleet((), {}, 0, {}, 0, None), 8.0) is None


def test_a_running_job_is_estimated_by_its_own_pace() -> None:
    running = replace(RUNNING, completion_tokens=4, used_ms=2_000)
    assert eta_s(running, None, None, None) == 3.0


def test_a_running_job_without_tokens_or_limit_is_not_estimated() -> None:
    assert eta_s(RUNNING, None, None, None) is None
    unlimited = replace(RUNNING.sampling, max_tokens=None)
    assert eta_s(replace(RUNNING, completion_tokens=4, sampling=unlimited), None, None, 1) is None


def test_an_ended_job_has_no_estimate() -> None:
    assert eta_s(replace(RUNNING, status=JobStatus.COMPLETED), None, None, 1.0) is None


def test_times_are_iso_8601_in_utc() -> None:
    view = status_view(RUNNING, None, None)
    assert view["created_at"] == "1970-01-01T00:00:01.000+00:00"
    assert view["ended_at"] is None


def test_a_job_that_never_ran_waited_all_its_time() -> None:
    cancelled = replace(WAITING, status=JobStatus.CANCELLED, ended_ms=3_500)
    metrics = metrics_of(cancelled)
    assert (metrics["queue_wait_time"], metrics["processing_time"]) == (2.5, 0.0)
    assert (metrics["total_time"], metrics["tokens_per_second"]) == (2.5, 0.0)
    assert metrics["time_to_first_token"] is None


def test_a_job_that_expired_before_its_first_token_has_no_partial_result() -> None:
    view = result_view(replace(RUNNING, status=JobStatus.EXPIRED, ended_ms=3_000))
    assert view == {
        "status": "error",
        "task_id": "j",
        "error_message": "Task ran longer than its time limit",
        "error_type": "DeadlineExceededError",
        "model": RUNNING.model,
        "state": "expired",
    }
