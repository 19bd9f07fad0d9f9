"""What Redis itself holds after a run: every job record, and the tokens of its event stream."""

from __future__ import annotations

import json
from dataclasses import dataclass

import redis

from common import keys
from common.events import RestartEvent, TokenEvent, unpack_event
from common.schemas import ChoiceResult, JobRecord


@dataclass(frozen=True)
class StoredJob:
    """A job as it stands in Redis.

    Attributes:
        fields: Of its record.
        events: Packed, in order, with their ids.
        token_ids: That a reader of its event stream ends up with; None where the events do not
            fit together.
    """

    job_id: str
    fields: dict[str, str]
    events: list[tuple[str, str]]
    token_ids: tuple[int, ...] | None

    @property
    def metadata(self) -> dict[str, str]:
        """As it was submitted."""
        found: dict[str, str] = json.loads(self.fields.get("metadata", "{}"))
        return found

    @property
    def choices(self) -> tuple[ChoiceResult, ...]:
        """Its result."""
        return JobRecord.from_fields(self.job_id, self.fields).choices

    @property
    def result_ids(self) -> tuple[int, ...]:
        """The token ids of its result's first choice."""
        return self.choices[0].token_ids if self.choices else ()

    def streamed_ids(self, choice: int) -> tuple[int, ...] | None:
        """What `token_ids` is, for any choice."""
        return put_together([packed for _, packed in self.events], choice)


def read_jobs(redis_url: str) -> list[StoredJob]:
    """Every job of a Redis."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        found = []
        for key in client.scan_iter(keys.JOB + "*", count=1000):
            job_id = str(key).removeprefix(keys.JOB)
            entries = client.xrange(keys.events(job_id))
            events = [(str(eid), str(fields["d"])) for eid, fields in entries]
            token_ids = put_together([packed for _, packed in events])
            found.append(StoredJob(job_id, client.hgetall(key), events, token_ids))
        return found


def put_together(packed: list[str], choice: int = 0) -> tuple[int, ...] | None:
    """The tokens of a choice in a job's events; None where one begins where none ended."""
    token_ids: list[int] = []
    for each in packed:
        event = unpack_event(each)
        if isinstance(event, RestartEvent):
            token_ids.clear()
        elif isinstance(event, TokenEvent) and event.choice == choice:
            if event.position != len(token_ids):
                return None
            token_ids += event.token_ids
    return tuple(token_ids)
