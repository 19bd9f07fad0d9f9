"""The worker's reaper: takes back the jobs of workers that are gone, from every worker.

Any number may run, on any host, beside those of the gateways.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from common.errors import ModelLoadError, RedisUnavailableError
from common.job_store import Claims
from common.reaping import Reaping
from common.request_log import OnEnd, outcome_of

log = logging.getLogger(__name__)


class Reaper:
    """Takes back jobs whose lease has passed, once a period.

    Args:
        load_errors: Says why this worker cannot load models, by their ids, while that is so.
        on_end: Called once for each job that the reaper has ended.
    """

    def __init__(
        self,
        reaping: Reaping,
        claims: Claims,
        load_errors: Callable[[], Mapping[str, ModelLoadError]],
        on_end: OnEnd,
    ) -> None:
        self._reaping = reaping
        self._claims = claims
        self._load_errors = load_errors
        self._on_end = on_end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin to reap."""
        self._thread.start()

    def stop(self) -> None:
        """Reap no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._reaping.period_s):
            try:
                self._reap()
            except RedisUnavailableError:
                continue

    def _reap(self) -> None:
        reaped = self._reaping.reap()
        for job_id in reaped.requeued:
            log.warning("Took back a job whose worker is gone", extra={"task_id": job_id})
        tell_ends(self._claims, reaped.ended, self._on_end)
        for model, error in self._load_errors().items():
            tell_ends(self._claims, self._claims.fail_ready(model, error), self._on_end)


def tell_ends(claims: Claims, job_ids: Sequence[str], on_end: OnEnd) -> None:
    """Log jobs that were ended without the worker that ran them, and call `on_end` for each."""
    for job_id in job_ids:
        record = claims.find(job_id)
        if record is not None:
            log.warning("Ended a job as %s", record.status, extra={"task_id": job_id})
            on_end(record, outcome_of(record))
