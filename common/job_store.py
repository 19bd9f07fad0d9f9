"""The jobs: every change of a job's state, each one Lua script.

Two disjoint halves: `Submissions` is the gateway's (asynchronous), `Claims` the worker's
(blocking). Knows nothing about HTTP, Celery or models.

Raises:
    RedisUnavailableError: Redis is away, full or read-only. Repeat the call: every one is safe to
        repeat, and answers as it did the first time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, cast

from common import keys
from common.connection import (
    AsyncRedis,
    Script,
    SyncRedis,
    pairs,
    translated_errors,
)
from common.errors import (
    IdempotencyMismatchError,
    JobError,
    QueueFullError,
    RateLimitError,
    RequestError,
    TaskExpiredError,
    TaskNotFoundError,
)
from common.schemas import JobRecord, JobSpec, JobStatus, Outcome, group_of
from common.settings import Settings
from common.submit_args import submit_args

QUEUE_FULL_RETRY_S = 5.0
RATE_EXCEEDED = "Rate limit exceeded"
FAIL_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes two submissions of an API key the same one.

    Attributes:
        key_hash: Of the idempotency key, so that any key makes a short name.
        request_hash: Of the request; another one under the same key is refused.
    """

    key_hash: str
    request_hash: str


@dataclass(frozen=True, slots=True)
class ReplayedJob:
    """A job of an earlier submission, as it stands now, with what its first answer told."""

    job_id: str
    status: JobStatus
    stream_token: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """An earlier submission: its job, or all jobs of its group in order."""

    group_id: str
    jobs: tuple[ReplayedJob, ...]


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted submission.

    Attributes:
        queue_position: Of its first job that waits: 1 is next, None where none waits any more.
        rate_remaining: Submissions that the key has left at once.
        rate_reset_s: Seconds until it has all of them again.
        replayed: What stands for this submission, where it is a repeat.
    """

    queue_position: int | None
    rate_remaining: int
    rate_reset_s: float
    replayed: Replayed | None = None


class Submissions:
    """The gateway's half: submit, look up, cancel."""

    _submit = Script("submit")
    _cancel = Script("cancel")

    def __init__(self, client: AsyncRedis, settings: Settings) -> None:
        self._client = client
        self._capacity = settings.queue_capacity
        self._per_minute = settings.rate_limit_per_minute
        self._burst = settings.rate_limit_burst
        self._ttls = (settings.result_ttl_s, settings.stream_grace_s)

    async def submit(
        self, *specs: JobSpec, idempotency: Idempotency | None = None, is_rated: bool = True
    ) -> Submitted:
        """Accept jobs, all or none: after this they are durable and in line.

        Args:
            specs: One job, or those of a group: of one key, model and class, named by `member_ids`.
            idempotency: A repeat of an earlier submission is answered with that one's jobs,
                whatever the rate and the queue's room; those of this call do not come to be.
            is_rated: Whether this counts, as one submission, toward the key's rate.

        Raises:
            RateLimitError: The key is over its rate.
            QueueFullError: With these jobs more than `QUEUE_CAPACITY` would be waiting.
            IdempotencyMismatchError: The idempotency key came with another request.
            TaskExpiredError: A job of the earlier submission was dropped `RESULT_TTL_S` after it.
        """
        first = specs[0]
        group_id = first.job_id if len(specs) == 1 else group_of(first.job_id)
        place = (group_id, first.key_id, first.model, first.job_class)
        submitted = await self._submitted(place, idempotency, await submit_args(specs), is_rated)
        assert submitted is not None
        return submitted

    async def replay(
        self, key_id: str, idempotency: Idempotency | None, *, is_rated: bool = False
    ) -> Submitted | None:
        """The answer to a repeat of an earlier submission, or None where there was none.

        Args:
            key_id: Who asks.
            idempotency: None repeats nothing.
            is_rated: Where there was none, count a submission toward the key's rate: one that was
                refused, and took work.

        Raises:
            RateLimitError: The key is over its rate.
            IdempotencyMismatchError: The idempotency key came with another request.
            TaskExpiredError: A job of the earlier submission was dropped `RESULT_TTL_S` after it.
        """
        return await self._submitted(("", key_id, "", ""), idempotency, [], is_rated)

    async def _submitted(
        self,
        place: tuple[str, ...],
        idempotency: Idempotency | None,
        jobs: list[str],
        is_rated: bool,
    ) -> Submitted | None:
        same = ("", "") if idempotency is None else astuple(idempotency)
        interval_us = 60_000_000 // self._per_minute
        limits = (self._capacity, interval_us, self._burst, int(is_rated))
        with translated_errors():
            answer, *values = await self._submit.acall(self._client, *place, *limits, *same, *jobs)
        if answer == "new":
            return None
        if answer not in ("ok", "replay"):
            raise self._refusal(answer, values)
        queue_position, remaining, reset_us, *earlier = values
        replayed = _replayed(earlier) if earlier else None
        return Submitted(queue_position, int(remaining), int(reset_us) / 1e6, replayed)

    def _refusal(self, answer: str, values: list[Any]) -> RequestError:
        if answer == "mismatch":
            return IdempotencyMismatchError(
                "This Idempotency-Key came with another request before: repeat that one as it "
                "was, or choose a new key.",
                param="Idempotency-Key",
            )
        if answer == "gone":
            return TaskExpiredError(
                f"This request was accepted before, as task '{values[0]}', whose result was "
                "dropped. To run it again, choose a new Idempotency-Key."
            )
        if answer == "rate":
            return RateLimitError(RATE_EXCEEDED, retry_after_s=int(values[0]) / 1e6)
        size, count = values
        room = "is full" if count == 1 else f"has no room for {count} more"
        return QueueFullError(
            f"The queue {room}: {size} of {self._capacity} jobs are waiting.",
            retry_after_s=QUEUE_FULL_RETRY_S,
        )

    async def get(self, job_id: str, key_id: str) -> JobRecord:
        """The record of a job that belongs to the key.

        Raises:
            TaskNotFoundError: There is none, or it belongs to another key.
            TaskExpiredError: It ended longer than `RESULT_TTL_S` ago.
        """
        record = await self.find(job_id)
        if record is None:
            await self._raise_missing(job_id, key_id)
            raise AssertionError("unreachable")
        if record.key_id != key_id:
            raise _not_found(job_id)
        return record

    async def find(self, job_id: str) -> JobRecord | None:
        """The record of a job, whoever it belongs to."""
        with translated_errors():
            fields = await cast(Any, self._client.hgetall(keys.job(job_id)))
        return JobRecord.from_fields(job_id, fields) if fields else None

    async def ended(self, job_ids: Sequence[str]) -> set[str]:
        """Those of some jobs that have ended, or are no longer known."""
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.hget(keys.job(job_id), "status")
            statuses = await pipe.execute()
        found = zip(job_ids, statuses, strict=True)
        return {job_id for job_id, s in found if s is None or JobStatus(s).is_final}

    async def queue_position(self, record: JobRecord) -> int | None:
        """The place of a waiting job in its model's line; 1 is next, None if it waits no more."""
        classes = ("high", "normal", "low")
        ahead = classes[: classes.index(record.job_class)]
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            pipe.zrank(keys.ready(record.model, record.job_class), record.job_id)
            for job_class in ahead:
                pipe.zcard(keys.ready(record.model, job_class))
            rank, *counts = await pipe.execute()
        return None if rank is None else rank + 1 + sum(counts)

    async def cancel(self, job_id: str, key_id: str) -> tuple[JobStatus, bool]:
        """Cancel a job; a job that has ended stays as it is.

        Returns:
            Its status now, and whether this call ended it. `processing`: its worker was told.

        Raises:
            TaskNotFoundError: There is none, or it belongs to another key.
            TaskExpiredError: It ended longer than `RESULT_TTL_S` ago.
        """
        with translated_errors():
            answer = await self._cancel.acall(self._client, job_id, key_id, *self._ttls)
        if not answer:
            await self._raise_missing(job_id, key_id)
        return JobStatus(answer[0]), bool(answer[1])

    async def _raise_missing(self, job_id: str, key_id: str) -> None:
        with translated_errors():
            owner = await cast(Any, self._client.get(keys.gone(job_id)))
            exists = await cast(Any, self._client.exists(keys.job(job_id)))
        if owner == key_id and not exists:
            raise TaskExpiredError(f"Task '{job_id}' ended too long ago; its result was dropped.")
        raise _not_found(job_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker may run, until its lease passes or it ends.

    Attributes:
        nonce: The fence: Redis takes tokens and the end of this job only with it.
    """

    record: JobRecord
    nonce: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A job as a worker reports it in its heartbeat."""

    job_id: str
    nonce: str
    used_ms: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """Redis's answer to a heartbeat: nonces of claims that hold no more, and of those to cancel."""

    lost: tuple[str, ...]
    cancelled: tuple[str, ...]


Released = Literal["requeued", "ended", "fenced"]


class Claims:
    """The worker's half: claim, keep, end and give back."""

    _claim = Script("claim")
    _finish = Script("finish")
    _heartbeat = Script("heartbeat")
    _release = Script("release")
    _restart = Script("restart")
    _fail_ready = Script("fail_ready")
    _leave = Script("leave")

    def __init__(self, client: SyncRedis, settings: Settings, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._lease_ms = int(settings.lease_s * 1000)
        self._ttls = (settings.result_ttl_s, settings.stream_grace_s)

    def claim(self, models: Mapping[str, str], nonce: str | None = None) -> Claim | None:
        """Take the job that should run next, or None where there is none for this worker.

        Args:
            models: Of the models that this worker has loaded, each id with its fingerprint.
            nonce: Given to repeat a claim whose answer was lost; else a fresh one.
        """
        nonce = nonce or uuid.uuid4().hex
        served = [part for pair in models.items() for part in pair]
        with translated_errors():
            answer = self._claim.call(self._client, self._worker_id, nonce, self._lease_ms, *served)
        if not answer:
            return None
        return Claim(JobRecord.from_fields(answer[0], pairs(answer[1])), nonce)

    def finish(
        self, job_id: str, nonce: str, outcome: Outcome, used_ms: int
    ) -> tuple[int, int] | None:
        """End a job.

        Returns:
            None when it has ended. Else the first choice that Redis does not have whole, and the
            number of its tokens that are committed: append the rest, then repeat.

        Raises:
            FencedError: The job is no longer this claim's.
        """
        counts = [len(choice.token_ids) for choice in outcome.choices]
        extra = [part for pair in outcome.to_fields().items() for part in pair]
        with translated_errors():
            answer = self._finish.call(
                self._client,
                *(job_id, nonce, outcome.status, outcome.pack_tails(), *self._ttls),
                *(used_ms, len(counts), *counts, *extra),
            )
        if answer[0] == "fenced":
            raise FencedError(job_id)
        return None if answer[0] == "ok" else (int(answer[1]), int(answer[2]))

    def heartbeat(self, announcement: str, held: Iterable[Holding]) -> Pulse:
        """Announce the worker and renew the leases of what it holds."""
        triples = [part for h in held for part in (h.job_id, h.nonce, h.used_ms)]
        with translated_errors():
            lost, cancelled = self._heartbeat.call(
                self._client, self._worker_id, self._lease_ms, announcement, *triples
            )
        return Pulse(tuple(lost), tuple(cancelled))

    def release(self, job_id: str, nonce: str) -> Released:
        """Hand a job back to the head of its queue.

        Returns:
            `requeued`; `ended` where it had been cancelled; `fenced` where it is not this claim's.
        """
        with translated_errors():
            answer: Released = self._release.call(self._client, job_id, nonce, *self._ttls)
        return answer

    def restart(self, job_id: str, nonce: str, epoch: int = 0) -> None:
        """Begin a job again from nothing: what was committed of it cannot be continued.

        Args:
            job_id: The job.
            nonce: The claim's.
            epoch: Of what follows: one more than before, so that appends of this claim that were
                sent before and come late are known. 0 where it has sent none.

        Raises:
            FencedError: The job is no longer this claim's.
        """
        with translated_errors():
            answer = self._restart.call(self._client, job_id, nonce, epoch)
        if answer == "fenced":
            raise FencedError(job_id)

    def fail_ready(self, model: str, error: JobError) -> list[str]:
        """Fail the waiting jobs of a model that no live worker can load."""
        with translated_errors():
            failed = self._fail_ready.call(
                self._client,
                *(model, type(error).__name__, error.message, FAIL_LIMIT, *self._ttls),
            )
        return list(failed)

    def find(self, job_id: str) -> JobRecord | None:
        """The record of a job."""
        with translated_errors():
            fields = cast(Any, self._client.hgetall(keys.job(job_id)))
        return JobRecord.from_fields(job_id, fields) if fields else None

    def leave(self) -> None:
        """Stop announcing this worker."""
        with translated_errors():
            self._leave.call(self._client, self._worker_id)

    def num_permits(self, model: str) -> int:
        """Permits that wait in the broker's list."""
        with translated_errors():
            return self._client.llen(keys.permits(model))


class FencedError(Exception):
    """The job has ended or belongs to another claim: stop working on it."""


def _replayed(earlier: list[str]) -> Replayed:
    group_id, *parts = earlier
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    jobs = (ReplayedJob(job_id, JobStatus(status), token) for job_id, status, token in triples)
    return Replayed(group_id, tuple(jobs))


def _not_found(job_id: str) -> TaskNotFoundError:
    return TaskNotFoundError(f"Task '{job_id}' not found")
