"""Jobs of several choices on a real Redis server: each choice has every token of its own once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common import keys
from common.events import EndEvent, RestartEvent, TokenEvent, unpack_event
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobStatus
from tests.integration.submitting import submit
from tests.integration.test_worker import TIMEOUT_S, WorkerUnderTest
from worker.backends.base import BackendEnd

ERROR = BackendEnd(JobStatus.FAILED, "error", error_type="EngineError", error_message="why")
TIMEOUT = BackendEnd(JobStatus.EXPIRED, "timeout", error_type="DeadlineExceededError")


@pytest.fixture
def worker(redis_url: str) -> Iterator[WorkerUnderTest]:
    worker = WorkerUnderTest(redis_url)
    yield worker
    worker.stop()


@pytest.fixture
def heir(worker: WorkerUnderTest) -> Iterator[WorkerUnderTest]:
    """The worker that comes after the first one."""
    heir = WorkerUnderTest(worker.url)
    yield heir
    heir.stop()


def asking(max_tokens: int, n: int = 3, **extra: Any) -> SamplingSpec:
    return SamplingSpec(max_tokens=max_tokens, time_limit_s=60, seed=1, n=n, **extra)


def begin(worker: WorkerUnderTest, num_choices: int = 3) -> Any:
    """Start a task and wait until the backend has all choices."""
    task = worker.start_task()
    for _ in range(num_choices):
        worker.backend.submitted.get(timeout=TIMEOUT_S)
    return task


def wait_until_committed(worker: WorkerUnderTest, job_id: str, *counts: int) -> None:
    """Wait until each choice has so many tokens in Redis."""
    names = [f"pos:{choice}" for choice in range(len(counts))]
    with worker.client.pubsub() as bell:  # type: ignore[no-untyped-call]
        bell.subscribe(keys.bell(job_id))
        bell.get_message(timeout=TIMEOUT_S)
        while [int(c or 0) for c in worker.client.hmget(keys.job(job_id), names)] != [*counts]:
            assert bell.get_message(timeout=TIMEOUT_S) is not None


def streamed(worker: WorkerUnderTest, job_id: str, n: int = 3) -> list[str]:
    """The text of each choice, as a watcher from the start has put it together."""
    texts, counts = [""] * n, [0] * n
    for _, entry in worker.client.xrange(keys.events(job_id)):
        event = unpack_event(entry["d"])
        if isinstance(event, TokenEvent):
            assert event.position == counts[event.choice]
            counts[event.choice] += len(event.token_ids)
            texts[event.choice] += "".join(event.texts)
        elif isinstance(event, EndEvent):
            texts = [text + tail for text, tail in zip(texts, event.tails, strict=True)]
        elif isinstance(event, RestartEvent):
            texts, counts = [""] * n, [0] * n
    return texts


def results(record: JobRecord) -> list[tuple[str, str]]:
    return [(choice.text, choice.finish_reason) for choice in record.choices]


WHOLE = [("0 1 2 end", "length"), ("100 101 102 end", "length"), ("200 201 202 end", "length")]


def test_each_choice_is_streamed_and_kept(worker: WorkerUnderTest) -> None:
    job_id = submit(worker.client, sampling=asking(3))
    task = begin(worker)
    worker.backend.step(3)
    task.join(TIMEOUT_S)
    record = worker.record(job_id)
    assert (record.status, results(record)) == (JobStatus.COMPLETED, WHOLE)
    assert streamed(worker, job_id) == [text for text, _ in WHOLE]
    assert record.completion_tokens == 9
    assert worker.client.hget(keys.COUNTERS, "generation_tokens") == "9"


def test_choices_at_different_positions_go_on_elsewhere_each_where_it_was(
    worker: WorkerUnderTest, heir: WorkerUnderTest
) -> None:
    """One has ended, one is in its middle, one has not begun."""
    job_id = submit(worker.client, sampling=asking(3))
    task = begin(worker)
    worker.backend.step(3, choice=0)
    worker.backend.step(1, choice=2)
    wait_until_committed(worker, job_id, 3, 0, 1)
    worker.runner.drain()
    task.join(TIMEOUT_S)
    assert worker.record(job_id).completion_tokens == 4

    task = heir.start_task()
    resumed = [heir.backend.submitted.get(timeout=TIMEOUT_S) for _ in range(3)]
    assert [(job.choice, job.committed_ids) for job in resumed] == [
        (0, (0, 1, 2)),
        (1, ()),
        (2, (200,)),
    ]
    heir.backend.step(3)
    task.join(TIMEOUT_S)
    assert results(heir.record(job_id)) == WHOLE
    assert streamed(worker, job_id) == [text for text, _ in WHOLE]


def test_a_job_begins_again_whole_where_one_choice_cannot_be_continued(
    worker: WorkerUnderTest, heir: WorkerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(worker.client, sampling=asking(3))
    task = begin(worker)
    worker.backend.step(2, choice=1)
    worker.backend.step(1, choice=2)
    wait_until_committed(worker, job_id, 0, 2, 1)
    worker.runner.drain()
    task.join(TIMEOUT_S)

    text_of = heir.backend.text_of_committed
    monkeypatch.setattr(
        heir.backend, "text_of_committed", lambda job: None if job.choice == 2 else text_of(job)
    )
    task = begin(heir)
    heir.backend.step(3)
    task.join(TIMEOUT_S)
    assert results(heir.record(job_id)) == WHOLE
    assert streamed(worker, job_id) == [text for text, _ in WHOLE]


def test_a_cancelled_job_keeps_what_each_choice_had(worker: WorkerUnderTest) -> None:
    job_id = submit(worker.client, sampling=asking(3))
    task = begin(worker)
    worker.backend.step(3, choice=0)
    worker.backend.step(1, choice=1)
    wait_until_committed(worker, job_id, 3, 1, 0)
    worker.client.hset(keys.job(job_id), "cancel", 1)
    worker.backend.step(1, choice=1)  # the answer to this append says so
    task.join(TIMEOUT_S)
    record = worker.record(job_id)
    assert record.status is JobStatus.CANCELLED
    assert results(record) == [
        ("0 1 2 end", "length"),
        ("100 101 ", "cancelled"),
        ("", "cancelled"),
    ]


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [(ERROR, "failed", "EngineError"), (TIMEOUT, "expired", "DeadlineExceededError")],
)
def test_a_choice_that_breaks_off_takes_the_others_with_it(
    worker: WorkerUnderTest, end: BackendEnd, status: str, error: str
) -> None:
    job_id = submit(worker.client, sampling=asking(3))
    task = begin(worker)
    worker.backend.step(2, choice=0)
    worker.backend.step(1, choice=1)
    worker.backend.end(1, end)
    task.join(TIMEOUT_S)
    assert not task.is_alive()
    record = worker.record(job_id)
    reason = end.finish_reason
    assert (record.status, record.error_type) == (status, error)
    assert results(record) == [("0 1 ", reason), ("100 ", reason), ("", reason)]
    assert [outcome.status for _, outcome in worker.ended] == [status]


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_the_logprobs_of_the_prompt_come_from_the_worker_that_ends_the_job(
    worker: WorkerUnderTest, heir: WorkerUnderTest, max_tokens: int
) -> None:
    sampling = asking(max_tokens, n=1, prompt_logprobs=2)
    job_id = submit(worker.client, sampling=sampling, prompt_ids=(5, 6, 7))
    if max_tokens:
        task = begin(worker, 1)
        worker.backend.step(1)
        worker.wait_until_committed(job_id, 1)
        worker.runner.drain()
        task.join(TIMEOUT_S)
        assert worker.record(job_id).prompt_logprobs == ()
    task = begin(heir, 1)
    heir.backend.step(max_tokens)
    task.join(TIMEOUT_S)
    record = heir.record(job_id)
    nothing, first, second = record.prompt_logprobs
    assert (nothing, first and first.logprob, second and second.logprob) == (None, -0.125, -0.25)
    assert first is not None
    assert [token_id for token_id, _ in first.top] == [1, 2]
    assert record.status is JobStatus.COMPLETED
    assert len(record.choices[0].token_ids) == max_tokens


def test_a_prompt_with_too_many_logprobs_fails_its_job_alone(worker: WorkerUnderTest) -> None:
    sampling = asking(1, n=1, prompt_logprobs=20)
    job_id = submit(worker.client, sampling=sampling, prompt_ids=(1,) * 3121)
    worker.client.delete(keys.permits("m"))
    worker.runner.run_next("m")
    record = worker.record(job_id)
    assert (record.status, record.error_type) == ("failed", "InvalidRequestError")
    assert "3121 tokens" in (record.error_message or "")
