"""The one thread that writes output to Redis: one pipelined write for all jobs at a time.

The first token of each choice and a job's end go out at once; other tokens wait until the last
write is `COALESCE_S` old. When Redis is away the output stays in the held jobs, generation goes
on, and what is missing is sent when Redis is back: appends are accepted by position only, so
nothing is lost or doubled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from common.errors import RedisUnavailableError
from common.event_stream import Append, Appended, EventWriter
from common.job_store import Claims, FencedError
from common.request_log import OnEnd
from common.schemas import Outcome
from worker.backends.base import Delta
from worker.held_jobs import HeldJob, HeldJobs

COALESCE_S = 0.025
RETRY_S = 0.5

log = logging.getLogger(__name__)


class Publisher:
    """Sends what the engine delivers.

    Args:
        abort: Called with the id of a run that Redis takes no more from, that was cancelled, or of
            which a choice has failed or run out of time.
        on_end: Called once for each job that this worker has ended.
    """

    def __init__(
        self,
        held: HeldJobs,
        events: EventWriter,
        claims: Claims,
        abort: Callable[[str], None],
        on_end: OnEnd,
    ) -> None:
        self._held = held
        self._events = events
        self._claims = claims
        self._abort = abort
        self._on_end = on_end
        self._changed = threading.Condition()
        self._dirty: dict[str, HeldJob] = {}
        self._is_urgent = False
        self._stopping = False
        self._is_away = False
        self._last_write = 0.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, then end the thread. Output that Redis refuses is left behind."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def deliver(self, deltas: Sequence[Delta]) -> None:
        """Take new output from the engine's thread. Never blocks on Redis."""
        doomed: set[str] = set()
        with self._changed:
            for delta in deltas:
                job = self._held.get(delta.run_id)
                if job is None:
                    continue
                job.add(delta)
                self._dirty[job.run_id] = job
                is_first = job.choices[delta.choice].num_committed == 0
                self._is_urgent |= is_first or job.outcome is not None
                if job.is_doomed:
                    # Each time: a choice may have been submitted after the last one.
                    doomed.add(job.run_id)
            self._changed.notify()
        for run_id in doomed:
            self._abort(run_id)

    def _run(self) -> None:
        while self._wait_for_work():
            jobs = self._take()
            try:
                self._write(jobs)
                self._note_away(False)
            except RedisUnavailableError:
                self._put_back(jobs)
                self._note_away(True)
                with self._changed:
                    if self._stopping:
                        return
                    self._changed.wait_for(lambda: self._stopping, RETRY_S)

    def _note_away(self, is_away: bool) -> None:
        was_away, self._is_away = self._is_away, is_away
        if is_away and not was_away:
            log.warning("Redis is away; output is kept and sent later")
        elif was_away and not is_away:
            log.info("Redis is back; what was kept is sent")

    def _wait_for_work(self) -> bool:
        """Block until it is time to write; False when there is nothing left and it should stop."""
        with self._changed:
            while not self._dirty:
                if self._stopping:
                    return False
                self._changed.wait()
            due = self._last_write + COALESCE_S
            while not (self._is_urgent or self._stopping) and time.monotonic() < due:
                self._changed.wait(due - time.monotonic())
            self._last_write = time.monotonic()
            return True

    def _take(self) -> list[HeldJob]:
        with self._changed:
            jobs, self._dirty, self._is_urgent = list(self._dirty.values()), {}, False
            return jobs

    def _put_back(self, jobs: Sequence[HeldJob]) -> None:
        with self._changed:
            for job in jobs:
                if not job.done.is_set():
                    self._dirty.setdefault(job.run_id, job)

    def _write(self, jobs: Sequence[HeldJob]) -> None:
        for job in jobs:
            if job.is_void and not job.done.is_set():
                self._restart(job)
        batch = self._unsent(jobs)
        if batch:
            answers = self._events.append([append for _, append in batch])
            for (job, append), answer in zip(batch, answers, strict=True):
                self._settle(job, append, answer)
        for job in jobs:
            # In this order: what is void has become so before the job could end.
            outcome = job.outcome
            if outcome is not None and not job.is_void and not job.done.is_set():
                self._end(job, outcome)

    def _restart(self, job: HeldJob) -> None:
        epoch = job.epoch  # what follows may be void in its turn while this is under way
        log.warning("Starting again from nothing", extra={"task_id": job.job_id})
        try:
            self._claims.restart(job.job_id, job.claim.nonce, epoch)
        except FencedError:
            self._lose(job)
            return
        with self._changed:
            job.is_void = job.epoch != epoch

    def _unsent(self, jobs: Sequence[HeldJob]) -> list[tuple[HeldJob, Append]]:
        with self._changed:
            return [
                (job, Append(job.job_id, job.claim.nonce, event, job.used_ms, job.epoch))
                for job in jobs
                if not job.done.is_set() and not job.is_void
                for event in job.unsent
            ]

    def _settle(self, job: HeldJob, append: Append, answer: Appended) -> None:
        if answer.fenced:
            self._lose(job)
            return
        choice = job.choices[append.event.choice]
        with self._changed:
            # What was voided while it was under way is no longer known by its positions.
            if append.epoch == job.epoch:
                choice.mark_committed(answer.committed)
            if choice.has_unsent:
                self._dirty[job.run_id] = job
        if answer.cancelled:
            self._abort(job.run_id)

    def _end(self, job: HeldJob, outcome: Outcome) -> None:
        try:
            missing = self._claims.finish(job.job_id, job.claim.nonce, outcome, job.used_ms)
        except FencedError:
            self._lose(job)
            return
        if missing is not None:
            choice, committed = missing
            with self._changed:
                job.choices[choice].mark_committed(committed)
                self._dirty[job.run_id] = job
            return
        self._held.drop(job, "ended")
        self._on_end(job.claim.record, outcome)

    def _lose(self, job: HeldJob) -> None:
        if self._held.get(job.run_id) is not job:
            return  # handed back, or known to be lost
        log.warning("The job is no longer this worker's", extra={"task_id": job.job_id})
        self._held.drop(job, "lost")
        self._abort(job.run_id)
