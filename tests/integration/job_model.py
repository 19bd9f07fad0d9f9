"""What the scripts should do with jobs, in plain Python: the model of `test_job_machine`.

Knows nothing about Redis, and no clock: the test says when a lease, a wait or a lifetime passes.
Every method is one script and answers as its caller in `common` does, an error by its name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.event_stream import Appended
from common.events import TokenEvent
from common.job_store import Holding, Idempotency, Pulse
from common.reaping import Reaped
from common.schemas import JOB_CLASSES, JobClass, JobSpec, JobStatus, Outcome
from tests.integration.job_state import (
    LONG_AGO,
    NOW,
    Claimed,
    Event,
    Group,
    Message,
    ModelJob,
    State,
    When,
)

TURN_OF_THE_LOWEST = 16
TRIAL_TOKENS = 8
FENCED = "FencedError"
NOT_FOUND = "TaskNotFoundError"
EXPIRED = "TaskExpiredError"
LOST = {
    "error_type": "WorkerLostError",
    "error_message": "The job's workers died 2 times while they ran it.",
}
REASONS = {
    JobStatus.FAILED: "error",
    JobStatus.EXPIRED: "timeout",
    JobStatus.CANCELLED: "cancelled",
}
CANNOT_LOAD = {"error_type": "ModelLoadError", "error_message": "no such file"}


class JobModel:
    """All jobs and workers of one model.

    Args:
        capacity: Jobs that may wait.
        max_attempts: Crashes that end a job.
        claims: Made before.

    Attributes:
        lines: The tags of the ids in each line, those of deleted records too.
        trials: The suspect that a worker took last. Where another worker or nobody runs it now,
            it still takes the blame for what else the worker lost, until the worker claims again.
        announced: The revision that each worker announces, None where it cannot load the model.
        heard: When each worker was heard of.
        said: What watchers and workers are told, in order.
    """

    def __init__(self, capacity: int, max_attempts: int, claims: int) -> None:
        self.capacity = capacity
        self.max_attempts = max_attempts
        self.claims = claims
        self.jobs: dict[str, ModelJob] = {}
        self.lines: dict[str, dict[str, int]] = {job_class: {} for job_class in JOB_CLASSES}
        self.trials: dict[str, str] = {}
        self.announced: dict[str, str | None] = {}
        self.heard: dict[str, When] = {}
        self.accepted: dict[str, Group] = {}
        self.nonces: dict[str, str] = {}
        self.counters: Counter[str] = Counter()
        self.permits = 0
        self.said: list[Message] = []

    def state(self) -> State:
        """What Redis should hold."""
        jobs = [job for job in self.jobs.values() if job.has_record]
        return State(
            records={job.job_id: job.record() for job in jobs},
            events={job.job_id: job.events for job in self.jobs.values() if job.events},
            tombstones={
                job.job_id: job.spec.key_id for job in self.jobs.values() if job.status.is_final
            },
            lines={
                job_class: sorted(line.items(), key=lambda entry: entry[1])
                for job_class, line in self.lines.items()
            },
            leases={job.job_id: job.lease for job in jobs if job.lease},
            trials={job.worker or "": job.job_id for job in jobs if job.is_tried},
            heard=self.heard,
            announced=set(self.announced),
            accepted={name: group.packed for name, group in self.accepted.items()},
            counters={name: count for name, count in self.counters.items() if count},
            claims=self.claims,
            permits=self.permits,
        )

    # The gateway's scripts

    def submit(self, specs: Sequence[JobSpec], idem: Idempotency | None) -> Any:
        """Returns their place, or (place, id, each job's id, status and token) of earlier ones."""
        first = specs[0]
        if first.job_id in self.jobs:
            return self._first_place(self.jobs[spec.job_id] for spec in specs)
        name = f"{first.key_id}:{idem.key_hash}" if idem else None
        if idem and name in self.accepted:
            return self._replay(self.accepted[name], idem)
        if self._num_ready() + len(specs) > self.capacity:
            return "QueueFullError"
        for spec in specs:
            job = self.jobs[spec.job_id] = ModelJob(spec, len(self.jobs) + 1, name)
            self._line(job)[spec.job_id] = job.tag
        if idem and name:
            self.accepted[name] = Group(idem.request_hash, tuple(spec.job_id for spec in specs))
        self.counters["jobs:submitted"] += len(specs)
        self.permits += len(specs)
        return self._place(self.jobs[first.job_id])

    def _replay(self, group: Group, idem: Idempotency) -> Any:
        if group.request_hash != idem.request_hash:
            return "IdempotencyMismatchError"
        jobs = [self.jobs[job_id] for job_id in group.job_ids]
        if not all(job.has_record for job in jobs):
            return EXPIRED
        told = [(job.job_id, job.status, job.spec.stream_token) for job in jobs]
        return self._first_place(jobs), group.group_id, told

    def cancel(self, job_id: str, key_id: str) -> Any:
        job = self.jobs[job_id]
        if job.is_gone or job.is_deleted or job.spec.key_id != key_id:
            return EXPIRED if job.is_gone and job.spec.key_id == key_id else NOT_FOUND
        if job.status is JobStatus.QUEUED:
            self._end(job, JobStatus.CANCELLED)
            return JobStatus.CANCELLED, True
        if job.status is JobStatus.PROCESSING:
            job.is_cancelled = True
            self.said.append((job_id, None, {}))
        return job.status, False

    # The worker's scripts

    def claim(self, worker: str, nonce: str, revision: str) -> Claimed | None:
        if nonce in self.nonces:
            earlier = self.jobs[self.nonces[nonce]]
            return earlier.claimed() if earlier.is_claimed_by(nonce) else None
        tried = self.jobs.get(self.trials.get(worker, ""))
        if tried is not None and not (tried.is_tried and tried.worker == worker):
            del self.trials[worker]
        turn = (self.claims + 1) % TURN_OF_THE_LOWEST
        for job_class in JOB_CLASSES if turn else reversed(JOB_CLASSES):
            job = self._first(job_class, worker, revision)
            if job is not None:
                self._start(job, worker, nonce, revision)
                return job.claimed()
        return None

    def _first(self, job_class: JobClass, worker: str, revision: str) -> ModelJob | None:
        line = self.lines[job_class]
        for job_id in sorted(line, key=line.__getitem__):
            job = self.jobs[job_id]
            if job.is_deleted:
                del line[job_id]
            elif not self._passes_over(job, worker, revision):
                return job
        return None

    def _passes_over(self, job: ModelJob, worker: str, revision: str) -> bool:
        if job.is_suspect and worker in self.trials:
            return True
        if not job.num_tokens or job.revision == revision:
            return False
        return job.requeued is NOW or job.revision in self._live().values()

    def _start(self, job: ModelJob, worker: str, nonce: str, revision: str) -> None:
        del self._line(job)[job.job_id]
        self.claims += 1
        if job.num_tokens and job.revision != revision:
            self._restart(job)
        job.status, job.lease = JobStatus.PROCESSING, NOW
        job.worker, job.nonce, job.revision = worker, nonce, revision
        job.attempts += 1
        self.nonces[nonce] = job.job_id
        self.heard.setdefault(worker, NOW)
        if job.is_suspect:
            self.trials[worker] = job.job_id
        self.said.append((job.job_id, 0, {"status": "processing"}))

    def append(self, job_id: str, nonce: str, event: TokenEvent, used_ms: int) -> Appended:
        job = self.jobs[job_id]
        if not job.is_claimed_by(nonce):
            return Appended(fenced=True)
        committed = job.choices[event.choice]
        if event.position == len(committed):
            committed += event.token_ids
            job.used_ms, job.has_had_tokens = used_ms, True
            if job.suspect_until is not None and job.num_tokens >= job.suspect_until:
                job.suspect_until, job.crashes = None, 0
                self._end_trial(job)
            self._tell(job, json.loads(event.pack()))
        return Appended(False, len(committed), job.is_cancelled)

    def finish(self, job_id: str, nonce: str, outcome: Outcome, used_ms: int) -> Any:
        job = self.jobs[job_id]
        if job.has_record and job.finished_by == nonce:
            return None
        if not job.is_claimed_by(nonce):
            return FENCED
        for index, (choice, ids) in enumerate(zip(outcome.choices, job.choices, strict=False)):
            if len(choice.token_ids) != len(ids):
                return index, len(ids)
        job.finished_by, job.used_ms = nonce, used_ms
        self._end_trial(job)
        self._end(job, outcome.status, outcome.tails, outcome.to_fields())
        return None

    def restart(self, job_id: str, nonce: str) -> str | None:
        job = self.jobs[job_id]
        if not job.is_claimed_by(nonce):
            return FENCED
        if job.num_tokens:
            self._restart(job)
        return None

    def release(self, job_id: str, nonce: str) -> str:
        job = self.jobs[job_id]
        if not job.is_claimed_by(nonce):
            return "fenced"
        job.attempts -= 1
        self._end_trial(job)
        if job.is_cancelled:
            self._end(job, JobStatus.CANCELLED)
            return "ended"
        self._requeue(job)
        return "requeued"

    def heartbeat(self, worker: str, revision: str | None, held: Iterable[Holding]) -> Pulse:
        self.announced[worker], self.heard[worker] = revision, NOW
        lost, cancelled = [], []
        for holding in held:
            job = self.jobs[holding.job_id]
            if not job.is_claimed_by(holding.nonce):
                lost.append(holding.nonce)
                continue
            job.used_ms, job.lease = holding.used_ms, NOW
            if job.is_cancelled:
                cancelled.append(holding.nonce)
        return Pulse(tuple(lost), tuple(cancelled))

    def leave(self, worker: str) -> None:
        for about in (self.trials, self.heard, self.announced):
            about.pop(worker, None)

    def fail_ready(self) -> list[str]:
        live = self._live()
        if not live or any(revision is not None for revision in live.values()):
            return []
        failed = []
        for line in self.lines.values():
            for job_id in sorted(line, key=line.__getitem__):
                if self.jobs[job_id].is_deleted:
                    del line[job_id]
                elif not self.jobs[job_id].num_tokens:
                    self._end(self.jobs[job_id], JobStatus.FAILED, extra=CANNOT_LOAD)
                    failed.append(job_id)
        return failed

    # What becomes of lost jobs

    def hand_back(self, worker: str) -> Reaped:
        mine = [job for job in self.jobs.values() if job.is_running and job.worker == worker]
        reaped = self._take_back(mine)
        self.leave(worker)
        return reaped

    def reap(self, is_after_outage: bool) -> Reaped:
        running = [job for job in self.jobs.values() if job.is_running]
        if is_after_outage:
            for job in running:
                job.lease = NOW
        reaped = self._take_back([job for job in running if job.lease is LONG_AGO])
        self.permits = max(self.permits, self._num_ready())
        trying = [job.worker for job in self.jobs.values() if job.is_tried]
        silent = [worker for worker, when in self.heard.items() if when is LONG_AGO]
        for worker in [worker for worker in silent if worker not in trying]:
            del self.heard[worker]
            self.trials.pop(worker, None)
        return reaped

    def has_work_for_reaper(self) -> bool:
        has_lapsed = any(job.lease is LONG_AGO for job in self.jobs.values())
        return has_lapsed or LONG_AGO in self.heard.values() or self.permits < self._num_ready()

    def _take_back(self, lost: Sequence[ModelJob]) -> Reaped:
        trials = dict(self.trials)
        for job in lost:
            assert job.worker is not None
            is_blamed = trials.get(job.worker, job.job_id) == job.job_id
            if is_blamed:
                job.crashes += 1
            else:
                job.attempts -= 1
            if job.is_cancelled:
                self._end(job, JobStatus.CANCELLED)
            elif is_blamed and job.crashes >= self.max_attempts:
                self._end(job, JobStatus.FAILED, extra=LOST)
            else:
                job.suspect_until = job.num_tokens + TRIAL_TOKENS * len(job.choices)
                self._requeue(job)
        requeued = sorted(job.job_id for job in lost if job.is_waiting)
        ended = sorted(job.job_id for job in lost if job.status.is_final)
        return Reaped(tuple(requeued), tuple(ended))

    # From outside

    def let_lease_pass(self, job_id: str) -> None:
        self.jobs[job_id].lease = LONG_AGO

    def let_wait_pass(self, job_id: str) -> None:
        self.jobs[job_id].requeued = LONG_AGO

    def let_announcement_pass(self, worker: str, heard: When) -> None:
        self.announced.pop(worker, None)
        self.heard[worker] = heard

    def let_lifetime_pass(self, job_id: str, is_record_gone: bool) -> None:
        """Of an ended job's events, then of its record."""
        self.jobs[job_id].events = []
        self.jobs[job_id].is_gone |= is_record_gone

    def spend_permits(self) -> None:
        self.permits = 0

    def let_idempotency_pass(self) -> None:
        self.accepted.clear()

    def delete_record(self, job_id: str) -> None:
        self.jobs[job_id].is_deleted = True

    # The parts of a transition

    def _first_place(self, jobs: Iterable[ModelJob]) -> int | None:
        return next((self._place(job) for job in jobs if job.is_waiting), None)

    def _place(self, job: ModelJob) -> int | None:
        if not job.is_waiting:
            return None
        ahead = JOB_CLASSES[: JOB_CLASSES.index(job.spec.job_class)]
        line = self._line(job)
        before = sum(len(self.lines[job_class]) for job_class in ahead)
        return before + sum(tag <= job.tag for tag in line.values())

    def _line(self, job: ModelJob) -> dict[str, int]:
        return self.lines[job.spec.job_class]

    def _num_ready(self) -> int:
        return sum(len(line) for line in self.lines.values())

    def _live(self) -> Mapping[str, str | None]:
        return {w: self.announced[w] for w, when in self.heard.items() if w in self.announced}

    def _tell(self, job: ModelJob, event: Event) -> None:
        job.num_events += 1
        job.events.append(event)
        self.said.append((job.job_id, job.num_events, event))

    def _restart(self, job: ModelJob) -> None:
        job.forget_tokens()
        job.used_ms = 0
        self._tell(job, {"r": 1})

    def _end_trial(self, job: ModelJob) -> None:
        assert job.worker is not None
        if self.trials.get(job.worker) == job.job_id:
            del self.trials[job.worker]
            self.permits += self._num_ready() > 0  # another suspect may be tried now

    def _requeue(self, job: ModelJob) -> None:
        job.status, job.requeued = JobStatus.QUEUED, NOW
        job.nonce = job.lease = None
        self._line(job)[job.job_id] = job.tag
        self.permits += 1
        self.said.append((job.job_id, 0, {"status": "queued"}))

    def _end(
        self,
        job: ModelJob,
        status: JobStatus,
        tails: Sequence[str] = (),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        job.end = dict(extra or {})
        if job.num_tokens and "result" not in job.end:
            choices = [
                {"text": text, "token_ids": ids, "finish_reason": REASONS[status]}
                for text, ids in zip(job.texts, job.choices, strict=True)
            ]
            job.end["result"] = json.dumps(choices)
        job.status, job.nonce, job.lease = status, None, None
        job.is_cancelled, job.suspect_until = False, None
        self._line(job).pop(job.job_id, None)
        self.counters[f"jobs:{status}"] += 1
        self.counters["generation_tokens"] += job.num_tokens
        if job.num_tokens or status is JobStatus.COMPLETED:
            self.counters["prompt_tokens"] += len(job.spec.prompt_ids or ())
        if job.idem in self.accepted:
            self._free(job.idem)
        self._tell(job, {"s": str(status), "t": list(tails)})

    def _free(self, name: str) -> None:
        """Forget an idempotency key when all its jobs have ended, if one was cancelled."""
        jobs = [self.jobs[job_id] for job_id in self.accepted[name].job_ids]
        jobs = [job for job in jobs if job.has_record]
        has_ended = all(job.status.is_final for job in jobs)
        if has_ended and any(job.status is JobStatus.CANCELLED for job in jobs):
            del self.accepted[name]
