"""The rule for permits: after a reap, a model's list holds one for each waiting job, up to its cap.

On a live service the list is short for moments: a worker has taken a permit and not yet the job, or
has claimed many jobs since the last reap. So a shortage counts only if it lasts over several reaps
while nobody claims. Jobs that workers pass over (`claim.lua`) eat permits and wait on; they do not
count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from common import keys
from common.connection import SyncRedis, translated_errors
from common.invariants.findings import Kind, Violation
from common.invariants.snapshots import MOST_FIELDS, POSITION, is_wrong_type
from common.permits import PERMIT_CAP
from common.reaping import LIMIT, PERIOD_S
from common.schemas import JOB_CLASSES

POLL_S = PERIOD_S / 8
NUM_REAPS = PERMIT_CAP // LIMIT + 1
"""Reaps that refill any list: each adds `LIMIT` permits at least, if so many are missing."""
LEAST_POLLS = 12
"""More than one period."""
MOST_POLLS = 8 * (NUM_REAPS + 1)


@dataclass(frozen=True, slots=True)
class Supply:
    """A model's permits at one instant.

    Attributes:
        waiting: Ids of waiting jobs, of each class `PERMIT_CAP` at most.
        claims: Jobs of the model that were ever claimed.
        reaped: When a reaper last ran, as text.
    """

    permits: int
    waiting: tuple[str, ...]
    claims: int
    reaped: str | None

    def missing_for(self, num_jobs: int) -> int:
        """Permits that so many waiting jobs lack."""
        return min(num_jobs, PERMIT_CAP) - self.permits


@dataclass(frozen=True, slots=True)
class Supplies:
    """What was found.

    Attributes:
        unwatched: Models that lack permits while no reaper runs that could add them.
    """

    violations: tuple[Violation, ...] = ()
    unwatched: tuple[str, ...] = ()


def check_now(client: SyncRedis, models: Iterable[str]) -> Supplies:
    """Check a service in which nothing moves, after a reap."""
    missing = {}
    for model in models:
        supply = _look(client, model)
        if supply is not None:
            missing[model] = supply.missing_for(len(supply.waiting))
    return Supplies(tuple(_violation(m, count) for m, count in missing.items() if count > 0))


def watch(client: SyncRedis, models: Iterable[str], pause: Callable[[float], None]) -> Supplies:
    """Check a live service; takes some reap periods where permits are missing, else no time.

    Args:
        client: To Redis.
        models: Their ids.
        pause: Waits for so many seconds.
    """
    violations, unwatched = [], []
    for model in models:
        missing, was_watched = _watch_one(client, model, pause)
        if missing > 0 and was_watched:
            violations.append(_violation(model, missing))
        elif missing > 0:
            unwatched.append(model)
    return Supplies(tuple(violations), tuple(unwatched))


def _watch_one(client: SyncRedis, model: str, pause: Callable[[float], None]) -> tuple[int, bool]:
    """Permits that were missing all the time, and whether enough reaps came in it."""
    supply = base = _look(client, model)
    num_reaps, missing = 0, 0
    for polls in range(MOST_POLLS):
        if supply is None or base is None:
            return 0, True
        # A claim takes a permit with it; only the next reap makes up for it.
        claimed = supply.claims - base.claims
        missing = supply.missing_for(len(supply.waiting)) - claimed
        if missing > 0:
            missing = supply.missing_for(_num_claimable(client, supply.waiting)) - claimed
        if missing <= 0:
            return 0, True
        if num_reaps >= NUM_REAPS and polls >= LEAST_POLLS:
            return missing, True
        pause(POLL_S)
        before, supply = supply, _look(client, model)
        if supply is not None and supply.reaped != before.reaped:
            num_reaps, base = num_reaps + 1, before
    return missing, False


def _look(client: SyncRedis, model: str) -> Supply | None:
    with translated_errors():
        pipe: Any = client.pipeline(transaction=True)
        pipe.llen(keys.permits(model))
        pipe.hget(keys.SCHED + model, "claims")
        pipe.get(keys.REAPED)
        for job_class in JOB_CLASSES:
            pipe.zrange(keys.ready(model, job_class), 0, PERMIT_CAP - 1)
        answers = pipe.execute(raise_on_error=False)
    if any([is_wrong_type(answer) for answer in answers]):
        return None
    permits, claims, reaped, *lines = answers
    waiting = tuple(job_id for line in lines for job_id in line)
    return Supply(permits, waiting, int(claims or 0), reaped)


def _num_claimable(client: SyncRedis, job_ids: Iterable[str]) -> int:
    """Jobs that no worker has a reason to pass over."""
    with translated_errors():
        pipe: Any = client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hmget(keys.job(job_id), "status", "suspect")
            pipe.hscan(keys.job(job_id), 0, match=f"{POSITION}*", count=MOST_FIELDS)
        answers = pipe.execute(raise_on_error=False)
    records = zip(answers[::2], answers[1::2], strict=True)
    whole = [record for record in records if not any([is_wrong_type(part) for part in record])]
    return sum(fields == ["queued", None] and not positions for fields, (_, positions) in whole)


def _violation(model: str, missing: int) -> Violation:
    return Violation(
        *(Kind.MISSING_PERMITS, keys.permits(model)),
        *("a permit for each waiting job, after a reap", f"{missing} are missing"),
    )
