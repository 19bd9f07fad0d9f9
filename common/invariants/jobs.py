"""The rules for one job: its record, its place, and how long what belongs to it lives.

Leases and lines are looked at once more from their own side, in `keyspace`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from common import keys
from common.connection import SyncRedis
from common.invariants.findings import Finding, Kind, Place, Problem, Violation
from common.invariants.snapshots import FIELDS, GONE, NO_TTL, JobSnapshot, snapshots
from common.invariants.streams import stream_problems
from common.schemas import JOB_CLASSES, JobStatus
from common.settings import Settings

COUNTS = ("eid", "attempts", "crashes", "created_ms")
REQUIRED = frozenset(FIELDS) - {"nonce", "cancel", "suspect", "n"}


def look_at_jobs(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Look at records, each together with all that belongs to it."""
    job_ids = [key.removeprefix(keys.JOB) for key, _ in places]
    for job in snapshots(client, job_ids):
        # Tokens may arrive all the time; a claim or an end makes it another state.
        state = f"{job.record.get('status')} {job.record.get('nonce')}"
        place = (keys.job(job.job_id), "")
        for kind, expected, found in _problems(client, job):
            violation = Violation(kind, job.job_id, expected, found)
            yield Finding(violation, look_at_jobs, place, state)


def _problems(client: SyncRedis, job: JobSnapshot) -> Iterator[Problem]:
    bad = list(_record_problems(job))
    if bad:
        # Without these fields nothing more can be said.
        yield bad[0]
        return
    status = JobStatus(job.record["status"])
    if status is JobStatus.QUEUED:
        yield from _queued_problems(job)
    elif status is JobStatus.PROCESSING:
        yield from _processing_problems(job)
    yield from _left_over(job, status)
    yield from _lifetime_problems(job, status.is_final)
    yield from stream_problems(client, job, status)


def _record_problems(job: JobSnapshot) -> Iterator[Problem]:
    record = job.record
    missing = sorted(REQUIRED - record.keys())
    if missing:
        yield Kind.BAD_RECORD, "a whole record", f"one without {', '.join(missing)}"
        return
    if record["status"] not in set(JobStatus):
        yield Kind.BAD_RECORD, "a known status", repr(record["status"])
    if record["class"] not in JOB_CLASSES:
        yield Kind.BAD_RECORD, "a known class", repr(record["class"])
    counts = {name: record[name] for name in COUNTS} | job.positions | {"n": record.get("n", "1")}
    for name, value in counts.items():
        if not (value.isascii() and value.isdigit()):
            yield Kind.BAD_RECORD, f"a number from 0 in {name}", repr(value)
    if not _is_number(record["tag"]):
        yield Kind.BAD_RECORD, "a number in tag", repr(record["tag"])


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _queued_problems(job: JobSnapshot) -> Iterator[Problem]:
    line = keys.ready(job.record["model"], job.record["class"])
    if job.score is None:
        yield Kind.NOT_IN_LINE, f"a waiting job in {line}", "it is not there"
    elif job.score != float(job.record["tag"]):
        yield Kind.WRONG_TAG, f"its tag {job.record['tag']} as score in {line}", f"{job.score:g}"


def _processing_problems(job: JobSnapshot) -> Iterator[Problem]:
    if "nonce" not in job.record:
        yield Kind.NO_NONCE, "a running job with a nonce", "none"
    if not job.has_lease:
        yield Kind.NO_LEASE, "a running job with a lease", "none"


def _left_over(job: JobSnapshot, status: JobStatus) -> Iterator[Problem]:
    """Fields that the way out of a state should have removed."""
    over = {
        JobStatus.QUEUED: ("nonce", "cancel"),
        JobStatus.PROCESSING: (),
    }.get(status, ("nonce", "cancel", "suspect"))
    found = [name for name in over if name in job.record]
    if found:
        expected = f"a record with status {status} without {', '.join(over)}"
        yield Kind.LEFT_OVER, expected, ", ".join(found)


def _lifetime_problems(job: JobSnapshot, has_ended: bool) -> Iterator[Problem]:
    ttls = {"record": job.record_ttl_ms, "events": job.events_ttl_ms}
    if has_ended:
        for_ever = [name for name, ttl in ttls.items() if ttl == NO_TTL]
        if for_ever:
            yield Kind.STAYS_FOR_EVER, "a TTL on all of an ended job", f"none on {for_ever}"
        if job.tombstone_ttl_ms == GONE:
            yield Kind.TOMBSTONE, "a tombstone of an ended job", "none"
        return
    expiring = {name: ttl for name, ttl in ttls.items() if ttl >= 0}
    if expiring:
        yield Kind.MAY_EXPIRE, "no TTL on an unfinished job", f"milliseconds left: {expiring}"
    if job.tombstone_ttl_ms != GONE:
        yield Kind.TOMBSTONE, "no tombstone of an unfinished job", "one"
