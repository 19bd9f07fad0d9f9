"""The heartbeat: renews the leases of the jobs that are really held.

It beats only while no engine's present step has been running for longer than
`ENGINE_STALL_S`: a hung worker leaves, and its jobs go to another one. While it waits for its next
beat it listens for cancels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from common.cancellations import Cancellations
from common.errors import RedisUnavailableError
from common.fleet import WorkerInfo
from common.job_store import Claims
from worker.held_jobs import HeldJobs

BEATS_PER_LEASE = 3
LONGEST_PERIOD_S = 5.0  # a worker's announcement passes after keys.WORKER_TTL_S
RETRY_S = 0.5

log = logging.getLogger(__name__)


class Heartbeat:
    """Renews leases and passes on cancels.

    Args:
        describe: What the worker announces of itself now.
        step_s: Seconds for which the longest of the engines' present steps has been running.
        abort: Called with the id of a run that was cancelled or lost.
        leave: Ends the process at once. A hung engine cannot be mended from inside, and a worker
            that lived on with it would claim more jobs only to lose them.
    """

    def __init__(
        self,
        claims: Claims,
        cancellations: Cancellations,
        held: HeldJobs,
        describe: Callable[[], WorkerInfo],
        step_s: Callable[[], float],
        abort: Callable[[str], None],
        leave: Callable[[], None],
        *,
        lease_s: float,
        engine_stall_s: float,
    ) -> None:
        self._claims = claims
        self._cancellations = cancellations
        self._held = held
        self._describe = describe
        self._step_s = step_s
        self._abort = abort
        self._leave = leave
        self._period_s = min(lease_s / BEATS_PER_LEASE, LONGEST_PERIOD_S)
        self._engine_stall_s = engine_stall_s
        self._stop = threading.Event()
        self._beat_now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        self._thread.join()

    def beat_soon(self) -> None:
        """Beat within a fraction of a second: something that is announced has changed."""
        self._beat_now.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.beat()
                self._listen(time.monotonic() + self._period_s)
            except RedisUnavailableError:
                self._stop.wait(min(RETRY_S, self._period_s / 3))

    def _listen(self, until: float) -> None:
        # Short waits, so that a stop or an early beat is seen soon.
        while time.monotonic() < until and not self._stop.is_set():
            if self._beat_now.is_set():
                self._beat_now.clear()
                return
            job_id = self._cancellations.wait(min(0.25, max(0.0, until - time.monotonic())))
            for job in self._held.claims_of(job_id) if job_id is not None else ():
                self._abort(job.run_id)

    def beat(self) -> None:
        """Announce the worker, renew what it holds, and act on what Redis answers.

        Raises:
            RedisUnavailableError: Redis is away.
        """
        if self._step_s() > self._engine_stall_s:
            log.critical("The engine is hung in one step; this worker leaves")
            self._leave()
            return
        pulse = self._claims.heartbeat(self._describe().pack(), self._held.holdings())
        for run_id in pulse.lost:
            job = self._held.get(run_id)
            if job is not None and job.outcome is None:
                self._held.drop(job, "lost")
                self._abort(run_id)
        for run_id in pulse.cancelled:
            self._abort(run_id)
