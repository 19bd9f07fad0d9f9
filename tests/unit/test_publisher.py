"""What is sent to Redis when output is voided while an earlier part of it is being sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from common.event_stream import Append, Appended, EventWriter
from common.events import NO_TOKEN_ID
from common.job_store import Claim, Claims
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobStatus, Outcome, Prompt
from worker.backends.base import BackendEnd, Delta
from worker.held_jobs import HeldJob, HeldJobs
from worker.publisher import Publisher

TIMEOUT_S = 20


class FakeRedis:
    """Takes everything, at the positions where it should be; `calls` are in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.before_append: Callable[[], None] = lambda: None
        self._committed: dict[int, int] = {}

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        self.before_append()
        self.before_append = lambda: None
        return [self._append(each) for each in appends]

    def _append(self, append: Append) -> Appended:
        event = append.event
        assert event.position == self._committed.get(event.choice, 0)
        self.calls.append(("append", append.epoch, event.choice, "".join(event.texts)))
        self._committed[event.choice] = event.position + len(event.texts)
        return Appended(fenced=False, committed=self._committed[event.choice])

    def restart(self, job_id: str, nonce: str, epoch: int) -> None:
        self._committed.clear()
        self.calls.append(("restart", epoch))

    def finish(self, job_id: str, nonce: str, outcome: Outcome, used_ms: int) -> None:
        self.calls.append(("finish", [choice.text for choice in outcome.choices]))


def held_job(n: int = 1) -> HeldJob:
    record = JobRecord(
        job_id="j",
        status=JobStatus.PROCESSING,
        key_id="k",
        model="m",
        job_class="normal",
        sampling=SamplingSpec(max_tokens=9, time_limit_s=60, seed=1, n=n),
        stream_token="t",
        request_id="r",
        created_ms=0,
        attempts=1,
        last_eid=0,
        completion_tokens=0,
        used_ms=0,
    )
    return HeldJob(Claim(record, "run"), (), [], 9, prompt=Prompt(text="hi"))


def told(
    position: int, *texts: str, choice: int = 0, restarts: bool = False, ends: bool = False
) -> Delta:
    end = BackendEnd(JobStatus.COMPLETED, "stop") if ends else None
    ids = (NO_TOKEN_ID,) * len(texts)
    return Delta("run", position, ids, texts, 0.5, end, choice=choice, restarts=restarts)


def publish(job: HeldJob, *batches: list[Delta]) -> FakeRedis:
    """Deliver the first batch, and the second while the first is being sent; wait for the end."""
    redis, held = FakeRedis(), HeldJobs()
    held.add(job)
    writer, claims = cast(EventWriter, redis), cast(Claims, redis)
    publisher = Publisher(held, writer, claims, lambda run_id: None, lambda record, outcome: None)
    first, *rest = batches
    if rest:
        redis.before_append = lambda: publisher.deliver(rest[0])
    publisher.deliver(first)
    publisher.start()
    assert job.done.wait(TIMEOUT_S)
    publisher.stop()
    return redis


def test_a_restart_is_done_before_what_follows_it_is_sent() -> None:
    job = held_job()
    redis = publish(job, [told(0, "a", "b"), told(0, "c", restarts=True, ends=True)])
    assert redis.calls == [("restart", 1), ("append", 1, 0, "c"), ("finish", ["c"])]


def test_output_that_is_voided_while_it_is_sent_does_not_count_as_sent() -> None:
    # Race: the positions that Redis answers are those of the text before the restart.
    job = held_job()
    redis = publish(
        job, [told(0, "a", "b")], [told(0, "c", "d", "e", restarts=True), told(3, "f", ends=True)]
    )
    assert redis.calls == [
        ("append", 0, 0, "ab"),
        ("restart", 1),
        ("append", 1, 0, "cdef"),
        ("finish", ["cdef"]),
    ]


def test_a_job_that_ends_with_as_many_pieces_as_were_voided_does_not_end_before_its_restart() -> (
    None
):
    # Race: by their number Redis would take the pieces of before for those of the end.
    job = held_job()
    redis = publish(job, [told(0, "a", "b")], [told(0, "c", "d", restarts=True, ends=True)])
    assert redis.calls[1:] == [("restart", 1), ("append", 1, 0, "cd"), ("finish", ["cd"])]


def test_the_other_choices_are_sent_again_after_a_restart() -> None:
    job = held_job(n=2)
    redis = publish(
        job,
        [told(0, "a"), told(0, "x", choice=1, ends=True)],
        [told(0, "b", restarts=True, ends=True)],
    )
    assert redis.calls[2:] == [
        ("restart", 1),
        ("append", 1, 0, "b"),
        ("append", 1, 1, "x"),
        ("finish", ["b", "x"]),
    ]
