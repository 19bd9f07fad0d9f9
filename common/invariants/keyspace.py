"""The rules for keys and for what is listed in them: lines, leases, streams, trials, counters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from common import keys
from common.connection import SyncRedis, translated_errors
from common.invariants.findings import Finding, Kind, Place, Violation
from common.invariants.snapshots import GONE, NO_TTL, is_wrong_type
from common.schemas import JOB_CLASSES, JobStatus
from common.settings import Settings

FAMILIES = {
    keys.JOB: "hash",
    keys.EVENTS: "stream",
    keys.GONE: "string",
    keys.READY: "zset",
    keys.SCHED: "hash",
    keys.CLAIM: "string",
    keys.RATE: "string",
    keys.IDEMPOTENCY: "string",
    keys.WAITED: "string",
    keys.PERMITS: "list",
    keys.CARD: "string",
    keys.TOKENIZER: "string",
    keys.SCORER: "string",
    keys.WORKER: "string",
    keys.TALLIES: "hash",
    keys.FILE: "hash",
    keys.FILES: "zset",
    keys.BATCH: "hash",
    keys.BATCHES: "zset",
    keys.BATCH_LINES: "set",
}
"""Types of the keys that begin with each of these."""
SINGLES = {
    keys.MODELS: "set",
    keys.LEASES: "zset",
    keys.WORKERS: "zset",
    keys.TRIALS: "hash",
    keys.COUNTERS: "hash",
    keys.REAPED: "string",
    keys.FILE_EXPIRY: "zset",
    keys.BATCH_LEASES: "zset",
}
"""Types of the keys that there is one of."""
PASSING = (
    *(keys.GONE, keys.CLAIM, keys.RATE, keys.IDEMPOTENCY, keys.WAITED, keys.WORKER, keys.SCORER),
)
"""Families whose every key has a TTL. A job's record and events are looked at with the job."""

LEASE_SLACK_S = 5.0
"""Redis's clock may have been set back by as much."""


def family_of(key: str) -> str | None:
    """The family of a key, the key itself where there is one of it, None where it is unknown."""
    if key in SINGLES:
        return key
    for family in FAMILIES:
        rest = key.removeprefix(family)
        if rest not in (key, ""):
            return None if family == keys.READY and not _is_line(rest) else family
    return None


def _is_line(rest: str) -> bool:
    model, _, job_class = rest.rpartition(":")
    return model != "" and job_class in JOB_CLASSES


def look_at_keys(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Look at the names, types and lifetimes of keys."""
    answers = iter(_transaction(client, [[("type", key), ("pttl", key)] for key, _ in places]))
    models: Any = _models(client) if any(k.startswith(keys.READY) for k, _ in places) else ()
    for place in places:
        (key, _), (found, ttl) = place, next(answers)
        if ttl == GONE:
            continue
        family = family_of(key)
        if family is None:
            yield _key_finding(Kind.UNKNOWN_KEY, place, "a key that baton knows", f"a {found}")
            continue
        expected = FAMILIES.get(family) or SINGLES[family]
        if found != expected:
            yield _key_finding(Kind.WRONG_TYPE, place, f"a {expected}", f"a {found}")
        elif family in PASSING and ttl == NO_TTL:
            yield _key_finding(Kind.STAYS_FOR_EVER, place, "a TTL", "none")
        elif family == keys.READY and model_of_line(key) not in models:
            yield _key_finding(
                Kind.UNLISTED_MODEL, place, f"its model in {keys.MODELS}", "it is not there"
            )


def look_at_streams(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Look whether event streams have a record."""
    job_ids = [key.removeprefix(keys.EVENTS) for key, _ in places]
    asked = [
        [("exists", keys.job(job_id)), ("pttl", key)]
        for job_id, (key, _) in zip(job_ids, places, strict=True)
    ]
    for place, (has_record, ttl) in zip(places, _transaction(client, asked), strict=True):
        if ttl != GONE and not has_record:
            found = "none" if ttl == NO_TTL else "none; the stream has a TTL"
            violation = Violation(Kind.ORPHAN_EVENTS, place[0], "a record of these events", found)
            yield Finding(violation, look_at_streams, place, "")


def look_at_lines(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Look at job ids in ready queues."""
    asked = [
        [("zscore", line, job_id), ("hmget", keys.job(job_id), "status", "model", "class")]
        for line, job_id in places
    ]
    for place, (score, record) in zip(places, _transaction(client, asked), strict=True):
        line, job_id = place
        if score is None or is_wrong_type(record):
            continue
        status, model, job_class = record
        own = keys.ready(model or "", job_class or "")
        if status is None:
            problem = (Kind.GHOST, f"a record of the id in {line}", "none")
        elif status != JobStatus.QUEUED:
            problem = (Kind.WRONG_LINE, f"waiting jobs alone in {line}", f"a job that is {status}")
        elif own != line:
            problem = (Kind.WRONG_LINE, f"the job in {own} alone", f"it is in {line} too")
        else:
            continue
        kind, expected, found = problem
        violation = Violation(kind, job_id, expected, found)
        yield Finding(violation, look_at_lines, place, f"{status} {score}")


def look_at_leases(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Look at leases: whose they are, and how long they last."""
    asked = [
        [("time",), ("zscore", keys.LEASES, job_id), ("hmget", keys.job(job_id), "status", "nonce")]
        for _, job_id in places
    ]
    for place, (time, lease_ms, record) in zip(places, _transaction(client, asked), strict=True):
        job_id = place[1]
        if lease_ms is None or is_wrong_type(record):
            continue
        status, nonce = record
        if status != JobStatus.PROCESSING:
            found = "no record" if status is None else f"it is {status}"
            stray = Violation(Kind.STRAY_LEASE, job_id, "a running job under each lease", found)
            yield Finding(stray, look_at_leases, place, str(status))
        ahead_s = lease_ms / 1000 - (time[0] + time[1] / 1e6)
        if ahead_s > settings.lease_s + LEASE_SLACK_S:
            expected = f"a lease of LEASE_S={settings.lease_s:g} s at most"
            long = Violation(Kind.LONG_LEASE, job_id, expected, f"one of {ahead_s:.1f} s")
            yield Finding(long, look_at_leases, place, str(nonce))


def look_at_trials(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Look at the form of trials alone: one that is over may stay until it is swept."""
    asked = [[("hget", keys.TRIALS, worker)] for _, worker in places]
    for place, (job_id,) in zip(places, _transaction(client, asked), strict=True):
        if job_id is not None and not (_is_name(place[1]) and _is_name(job_id)):
            expected, found = "the ids of a worker and of its job", f"{place[1]!r}: {job_id!r}"
            violation = Violation(Kind.BAD_TRIAL, keys.TRIALS, expected, found)
            yield Finding(violation, look_at_trials, place, job_id)


def _is_name(text: str) -> bool:
    return text != "" and text.isprintable() and " " not in text


def look_at_counters(
    client: SyncRedis, settings: Settings, places: Sequence[Place]
) -> Iterator[Finding]:
    """Compare the counters with the jobs that wait or run."""
    lines = [keys.ready(m, c) for m in _models(client) for c in JOB_CLASSES]
    asked = [("hgetall", keys.COUNTERS), ("zcard", keys.LEASES), *(("zcard", k) for k in lines)]
    [[counters, *sizes]] = _transaction(client, [asked])
    if any([is_wrong_type(answer) for answer in (counters, *sizes)]):
        return
    ended = sum(int(counters.get(f"jobs:{s}", 0)) for s in JobStatus if s.is_final)
    counted = int(counters.get("jobs:submitted", 0)) - ended
    if counted != sum(sizes):
        expected = f"{sum(sizes)} unfinished jobs, as in lines and leases"
        found = f"{counted} submitted and not ended"
        violation = Violation(Kind.COUNTERS, keys.COUNTERS, expected, found)
        yield Finding(violation, look_at_counters, (keys.COUNTERS, ""), "")


def model_of_line(line: str) -> str:
    """The model of a ready queue."""
    return line.removeprefix(keys.READY).rpartition(":")[0]


def _models(client: SyncRedis) -> set[str]:
    [[models]] = _transaction(client, [[("smembers", keys.MODELS)]])
    return set() if is_wrong_type(models) else set(models)


def _transaction(client: SyncRedis, asked: Sequence[Sequence[tuple[str, ...]]]) -> list[list[Any]]:
    """Run groups of commands at one instant; a key of a wrong type answers with its error."""
    with translated_errors():
        pipe: Any = client.pipeline(transaction=True)
        for group in asked:
            for command, *arguments in group:
                getattr(pipe, command)(*arguments)
        answers = iter(pipe.execute(raise_on_error=False))
    return [[next(answers) for _ in group] for group in asked]


def _key_finding(kind: Kind, place: Place, expected: str, found: str) -> Finding:
    return Finding(Violation(kind, place[0], expected, found), look_at_keys, place, "")
