"""Jobs as they stand at one instant: record, place in line, lease, stream and lifetimes together.

Read in one transaction, so that a live service never shows half of a transition. Knows no rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from common import keys
from common.connection import SyncRedis, translated_errors

GONE = -2
"""What PTTL answers where there is no key."""
NO_TTL = -1
"""What PTTL answers where a key stays for ever."""

POSITION = "pos:"
FIELDS = (
    *("status", "key", "model", "class", "tag", "eid", "attempts", "crashes", "created_ms"),
    *("params", "stream_token", "request_id", "nonce", "cancel", "suspect", "n"),
)
MOST_FIELDS = 1000
"""A scan's step: a record has far fewer."""


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """One job at one instant.

    Attributes:
        record: The fields of `FIELDS` that it has.
        positions: Of each choice, the tokens committed as the record counts them, as text.
        record_ttl_ms: Milliseconds to live, or `NO_TTL`; the record is there.
        events_ttl_ms: As above, or `GONE`.
        tombstone_ttl_ms: As above, or `GONE`.
        num_events: Entries of its stream.
        last_entry: Id of the stream's last entry, such as `12-0`.
        has_lease: Whether it has one, passed or not.
        score: Its score in the line of its own model and class; None where it is not in it.
    """

    job_id: str
    record: dict[str, str]
    positions: dict[str, str]
    record_ttl_ms: int
    events_ttl_ms: int
    tombstone_ttl_ms: int
    num_events: int
    last_entry: str | None
    has_lease: bool
    score: float | None


def snapshots(client: SyncRedis, job_ids: Sequence[str]) -> Iterator[JobSnapshot]:
    """The jobs of these ids; one that has no record, or keys of a wrong type, is left out.

    Raises:
        RedisUnavailableError: Redis is away.
    """
    lines = _lines(client, job_ids)
    with translated_errors():
        pipe: Any = client.pipeline(transaction=True)
        for job_id, line in zip(job_ids, lines, strict=True):
            _ask(pipe, job_id, line)
        answers = pipe.execute(raise_on_error=False)
    size = len(answers) // max(1, len(job_ids))
    for i, job_id in enumerate(job_ids):
        snapshot = _read(job_id, answers[i * size : (i + 1) * size])
        if snapshot is not None:
            yield snapshot


def is_wrong_type(answer: object) -> bool:
    """Whether a pipeline's answer says that the key is of another type.

    Raises:
        Exception: The answer is any other error.
    """
    if isinstance(answer, Exception):
        if "WRONGTYPE" not in str(answer):
            raise answer
        return True
    return False


def _lines(client: SyncRedis, job_ids: Sequence[str]) -> list[str]:
    """The key of the line that each job belongs in; its model and class never change."""
    with translated_errors():
        pipe: Any = client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hmget(keys.job(job_id), "model", "class")
        answers = pipe.execute(raise_on_error=False)
    return [
        "" if is_wrong_type(answer) else keys.ready(answer[0] or "", answer[1] or "")
        for answer in answers
    ]


def _ask(pipe: Any, job_id: str, line: str) -> None:
    job, events = keys.job(job_id), keys.events(job_id)
    pipe.hmget(job, *FIELDS)
    pipe.hscan(job, 0, match=f"{POSITION}*", count=MOST_FIELDS)
    for key in (job, events, keys.gone(job_id)):
        pipe.pttl(key)
    pipe.xlen(events)
    pipe.xrevrange(events, count=1)
    pipe.zscore(keys.LEASES, job_id)
    pipe.zscore(line, job_id)


def _read(job_id: str, answers: list[Any]) -> JobSnapshot | None:
    # A key of a wrong type is found by its own look.
    if any([is_wrong_type(answer) for answer in answers]):
        return None
    values, (_, positions), record_ttl, events_ttl, gone_ttl, length, last, lease, score = answers
    if record_ttl == GONE:
        return None
    return JobSnapshot(
        job_id=job_id,
        record={f: value for f, value in zip(FIELDS, values, strict=True) if value is not None},
        positions={name.removeprefix(POSITION): value for name, value in positions.items()},
        record_ttl_ms=record_ttl,
        events_ttl_ms=events_ttl,
        tombstone_ttl_ms=gone_ttl,
        num_events=length,
        last_entry=last[0][0] if last else None,
        has_lease=lease is not None,
        score=score,
    )
