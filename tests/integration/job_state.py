"""What there is to know of all jobs, in one form: as the model has it and as Redis holds it.

Times are told as how long ago they are; what belongs to a request alone is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Any

from common import keys
from common.connection import SyncRedis
from common.schemas import JOB_CLASSES, ChoiceResult, JobSpec, JobStatus, Outcome
from tests.integration.stores import MODEL


class When(StrEnum):
    """How long ago something was, or will be; of a lease, `NOW` is still to come."""

    NOW = auto()
    AGO = auto()
    """Long enough for an announcement to pass."""
    LONG_AGO = auto()


NOW, AGO, LONG_AGO = When
TIMES = {"created_ms", "started_ms", "first_token_ms", "requeued_ms", "ended_ms", "cancel"}
HOUR_MS = 3_600_000

Event = dict[str, Any]
"""An event as it is packed."""
Message = tuple[str, int | None, Event]
"""To a job's watchers: its id, the event's id (0 where it only changed its state) and the event.
To its worker, that it is cancelled: its id, None and {}."""


@dataclass
class Call:
    """A claim as its worker made it, and the job that it got."""

    worker: str
    nonce: str
    revision: str
    job_id: str = ""


@dataclass(frozen=True)
class Claimed:
    """What a worker learns of a job that it claims; `committed`: token ids of each choice."""

    job_id: str
    attempts: int
    committed: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """The jobs of one submission, as its idempotency key remembers them."""

    request_hash: str
    job_ids: tuple[str, ...]

    @property
    def group_id(self) -> str:
        one = self.job_ids[0]
        return one if len(self.job_ids) == 1 else one.removesuffix("-0")

    @property
    def packed(self) -> str:
        count = [str(len(self.job_ids))] if len(self.job_ids) > 1 else []
        return " ".join([self.group_id, self.request_hash, *count])


@dataclass
class ModelJob:
    """One job of the model.

    Attributes:
        choices: Of each the ids of the committed tokens that hold; the text of token 5 is "<5>".
        events: All events; [] when the stream's lifetime has passed.
        suspect_until: Tokens of all choices that it has to commit, where its worker died beside it.
        requeued: When it was put back in line, if it was.
        lease: NOW where it is good, LONG_AGO where it has passed.
        finished_by: The nonce of the claim that has ended it, if one did.
        end: Fields that its end has added.
        is_gone: The lifetime of its record has passed; a tombstone is left.
        is_deleted: Somebody has deleted its record by hand.
    """

    spec: JobSpec
    tag: int
    idem: str | None
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    crashes: int = 0
    nonce: str | None = None
    worker: str | None = None
    revision: str | None = None
    choices: list[list[int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    num_events: int = 0
    used_ms: int | None = None
    has_had_tokens: bool = False
    suspect_until: int | None = None
    is_cancelled: bool = False
    requeued: When | None = None
    lease: When | None = None
    finished_by: str | None = None
    end: dict[str, str] = field(default_factory=dict)
    is_gone: bool = False
    is_deleted: bool = False

    def __post_init__(self) -> None:
        self.forget_tokens()

    @property
    def job_id(self) -> str:
        return self.spec.job_id

    @property
    def has_record(self) -> bool:
        return not (self.is_gone or self.is_deleted)

    @property
    def is_waiting(self) -> bool:
        return self.has_record and self.status is JobStatus.QUEUED

    @property
    def is_running(self) -> bool:
        return self.has_record and self.status is JobStatus.PROCESSING

    @property
    def is_suspect(self) -> bool:
        return self.suspect_until is not None

    @property
    def is_tried(self) -> bool:
        """Whether it runs as the suspect of its worker."""
        return self.is_running and self.is_suspect

    @property
    def num_tokens(self) -> int:
        return sum(len(ids) for ids in self.choices)

    @property
    def texts(self) -> list[str]:
        return ["".join(f"<{token}>" for token in ids) for ids in self.choices]

    def forget_tokens(self) -> None:
        self.choices = [[] for _ in range(self.spec.sampling.n)]

    def is_claimed_by(self, nonce: str) -> bool:
        return self.is_running and self.nonce == nonce

    def claimed(self) -> Claimed:
        """What a worker that claims it learns."""
        return Claimed(self.job_id, self.attempts, tuple(map(tuple, self.choices)))

    def outcome(self, status: JobStatus, shift: int = 0) -> Outcome:
        """What its worker reports at the end.

        Args:
            status: A final one. A failure has no result of its own.
            shift: How many tokens too many its last choice has; one at most.
        """
        if status is JobStatus.FAILED:
            return Outcome(status, prompt_tokens=3, error_type="EngineError", error_message="why")
        *others, last = map(tuple, self.choices)
        every = (*others, (*last, 1)[: max(0, len(last) + shift)])
        choices = tuple(
            ChoiceResult(f"{text}tail {index}", ids, "stop")
            for index, (text, ids) in enumerate(zip(self.texts, every, strict=True))
        )
        tails = tuple(f"tail {index}" for index in range(len(choices)))
        return Outcome(status, choices, tails, prompt_tokens=3)

    def record(self) -> dict[str, Any]:
        """Its fields as they should be stored."""
        optional = {
            "idem": self.idem,
            "nonce": self.nonce,
            "worker": self.worker,
            "revision": self.revision,
            "started_ms": NOW if self.worker else None,
            **{f"pos:{i}": str(len(ids)) for i, ids in enumerate(self.choices) if ids},
            "used_ms": None if self.used_ms is None else str(self.used_ms),
            "first_token_ms": NOW if self.has_had_tokens else None,
            "suspect": str(self.suspect_until) if self.is_suspect else None,
            "cancel": NOW if self.is_cancelled else None,
            "requeued_ms": self.requeued,
            "ended_ms": NOW if self.status.is_final else None,
        }
        return {
            **self.spec.to_fields(),
            **{"status": str(self.status), "tag": str(self.tag), "created_ms": NOW},
            **{"attempts": str(self.attempts), "crashes": str(self.crashes)},
            "eid": str(self.num_events),
            **{name: value for name, value in optional.items() if value is not None},
            **_with_result_unpacked(self.end),
        }


@dataclass(frozen=True)
class State:
    """Everything that the scripts keep, but for what is swept later without having mattered.

    Attributes:
        events: Of each job, in the order of their ids, which have no gap.
        lines: Ids with their tags, as they are claimed.
        trials: Of each worker the suspect that it runs.
        accepted: Of each idempotency key an id, the request's hash, and of a group how many jobs.
    """

    records: dict[str, dict[str, Any]]
    events: dict[str, list[Event]]
    tombstones: dict[str, str]
    lines: dict[str, list[tuple[str, int]]]
    leases: dict[str, When]
    trials: dict[str, str]
    heard: dict[str, When]
    announced: set[str]
    accepted: dict[str, str]
    counters: dict[str, int]
    claims: int
    permits: int


def read_state(client: SyncRedis, job_ids: Iterable[str]) -> State:
    """What Redis holds now of the jobs that were ever submitted, and of everything else."""
    about_all, *about_each = _ask(client, list(job_ids))
    (seconds, _), leases, trials, heard, counters, claims, permits, accepted, announced, *lines = (
        about_all
    )
    now_ms = seconds * 1000
    records = {job_id: _record(fields, now_ms) for job_id, fields, _, _ in about_each if fields}
    return State(
        records=records,
        events={job_id: _events(entries) for job_id, _, entries, _ in about_each if entries},
        tombstones={job_id: key_id for job_id, _, _, key_id in about_each if key_id},
        lines={
            job_class: [(job_id, int(tag)) for job_id, tag in line]
            for job_class, line in zip(JOB_CLASSES, lines, strict=True)
        },
        leases={job_id: NOW if until > now_ms else LONG_AGO for job_id, until in leases},
        trials={w: job_id for w, job_id in trials.items() if _is_tried(records.get(job_id), w)},
        heard={worker: _heard(now_ms - beat) for worker, beat in heard},
        announced={name.removeprefix(keys.WORKER) for name in announced},
        accepted=_values(client, accepted),
        counters={name: int(count) for name, count in counters.items() if int(count)},
        claims=int(claims or 0),
        permits=permits,
    )


def _ask(client: SyncRedis, job_ids: list[str]) -> list[Any]:
    pipe: Any = client.pipeline(transaction=True)
    pipe.time()
    pipe.zrange(keys.LEASES, 0, -1, withscores=True)
    pipe.hgetall(keys.TRIALS)
    pipe.zrange(keys.WORKERS, 0, -1, withscores=True)
    pipe.hgetall(keys.COUNTERS)
    pipe.hget(keys.SCHED + MODEL, "claims")
    pipe.llen(keys.permits(MODEL))
    pipe.keys(keys.IDEMPOTENCY + "*")
    pipe.keys(keys.WORKER + "*")
    for job_class in JOB_CLASSES:
        pipe.zrange(keys.ready(MODEL, job_class), 0, -1, withscores=True)
    num_about_all = len(pipe)
    for job_id in job_ids:
        pipe.hgetall(keys.job(job_id))
        pipe.xrange(keys.events(job_id))
        pipe.get(keys.gone(job_id))
    answers = pipe.execute()
    about_each = iter(answers[num_about_all:])
    # The iterator stands there three times, so that three answers go to each id.
    each = zip(job_ids, about_each, about_each, about_each, strict=True)
    return [answers[:num_about_all], *each]


def _values(client: SyncRedis, accepted: list[str]) -> dict[str, str]:
    values: Any = client.mget(accepted) if accepted else []
    names = [name.removeprefix(keys.IDEMPOTENCY) for name in accepted]
    return dict(zip(names, values, strict=True))


def _record(fields: dict[str, str], now_ms: int) -> dict[str, Any]:
    record: dict[str, Any] = _with_result_unpacked(fields)
    for name in record.keys() & TIMES:
        record[name] = NOW if 0 <= now_ms + 1000 - int(record[name]) < HOUR_MS else LONG_AGO
    record.pop("ended_by", None)  # only who may repeat a finish
    return record


def _events(entries: list[tuple[str, dict[str, str]]]) -> list[Event]:
    ids = [entry_id for entry_id, _ in entries]
    assert ids == [f"{eid}-0" for eid in range(1, len(ids) + 1)], "a gap between event ids"
    return [json.loads(values["d"]) for _, values in entries]


def _is_tried(record: dict[str, Any] | None, worker: str) -> bool:
    return record is not None and (record["status"], record.get("worker"), "suspect" in record) == (
        *(JobStatus.PROCESSING, worker, True),
    )


def _heard(age_ms: float) -> When:
    if age_ms < keys.WORKER_TTL_S * 1000:
        return NOW
    return AGO if age_ms < 3 * keys.WORKER_TTL_S * 1000 else LONG_AGO


def _with_result_unpacked(fields: dict[str, str]) -> dict[str, Any]:
    return {name: json.loads(v) if name == "result" else v for name, v in fields.items()}
