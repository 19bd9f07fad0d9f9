"""The rules for a job's event stream: ids and positions without a gap, one end, and the result.

Read in pages up to the event that the record counts last: what is appended meanwhile comes after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from common import keys
from common.connection import SyncRedis, translated_errors
from common.events import EndEvent, RestartEvent, TokenEvent, unpack_event
from common.invariants.findings import Kind, Problem
from common.invariants.snapshots import GONE, JobSnapshot
from common.schemas import JobStatus
from common.token_logprobs import TokenLogprobs

PAGE = 500
MOST_ENDS = 3


def stream_problems(client: SyncRedis, job: JobSnapshot, status: JobStatus) -> Iterator[Problem]:
    """What is wrong with the events of a job, one problem of each kind at most."""
    eid = int(job.record["eid"])
    if job.events_ttl_ms == GONE:
        if status.is_final and eid == 0:
            yield Kind.LAST_EVENT, f"an end, {status}", "no event was ever written"
        elif not status.is_final and eid > 0:
            yield Kind.EVENT_IDS, f"events 1 to {eid} of an unfinished job", "no stream"
        return
    replay = Replay()
    for entry_id, values in _entries(client, job.job_id, eid):
        replay.take(entry_id, values.get("d", ""))
    replay.compare(job, eid)
    replay.compare_end(status, eid)
    if status.is_final:
        with translated_errors():
            packed = cast("str | None", client.hget(keys.job(job.job_id), "result"))
        replay.compare_result(packed)
    yield from ((kind, *texts) for kind, texts in replay.problems.items())


def _entries(client: SyncRedis, job_id: str, eid: int) -> Iterator[tuple[str, dict[str, str]]]:
    first, last = "-", f"{eid}-0"
    while True:
        with translated_errors():
            page: list[Any] = cast(Any, client.xrange(keys.events(job_id), first, last, PAGE))
        yield from page
        if len(page) < PAGE:
            return
        first = f"({page[-1][0]}"


@dataclass
class Replay:
    """What a stream's events add up to, taken one by one.

    Attributes:
        problems: The first of each kind: what was expected and what was found.
    """

    problems: dict[Kind, tuple[str, str]] = field(default_factory=dict)
    _num_events: int = 0
    _ids: dict[int, list[int]] = field(default_factory=dict)
    _texts: dict[int, list[str]] = field(default_factory=dict)
    _logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    _ends: list[tuple[str, EndEvent]] = field(default_factory=list)

    def take(self, entry_id: str, packed: str) -> None:
        """Take the next entry of the stream."""
        self._num_events += 1
        if entry_id != f"{self._num_events}-0":
            self._note(Kind.EVENT_IDS, f"event {self._num_events}-0 next", entry_id)
        try:
            event = unpack_event(packed)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._note(Kind.BAD_EVENT, "an event", f"something else at {entry_id}")
            return
        if isinstance(event, RestartEvent):
            self._ids.clear()
            self._texts.clear()
            self._logprobs.clear()
        elif isinstance(event, EndEvent):
            if len(self._ends) < MOST_ENDS:
                self._ends.append((entry_id, event))
        else:
            self._take_tokens(entry_id, event)

    def _take_tokens(self, entry_id: str, event: TokenEvent) -> None:
        ids = self._ids.setdefault(event.choice, [])
        if event.position != len(ids):
            expected = f"token {len(ids)} of choice {event.choice} next"
            self._note(Kind.POSITIONS, expected, f"token {event.position} at {entry_id}")
        if len(event.token_ids) != len(event.texts):
            self._note(Kind.BAD_EVENT, "one text for each token", f"another number at {entry_id}")
        logprobs = self._logprobs.setdefault(event.choice, [])
        if len(event.logprobs) not in (0, len(event.token_ids)) or (
            ids and bool(event.logprobs) != bool(logprobs)
        ):
            expected = "a log-probability for each token, or none for any"
            self._note(Kind.BAD_EVENT, expected, f"another number at {entry_id}")
        logprobs.extend(event.logprobs)
        ids.extend(event.token_ids)
        self._texts.setdefault(event.choice, []).extend(event.texts)

    def compare(self, job: JobSnapshot, eid: int) -> None:
        """Compare with what the record counts."""
        expected = f"events 1 to {eid}"
        if job.num_events != eid or self._num_events != eid:
            self._note(Kind.EVENT_IDS, expected, f"{job.num_events} events")
        if eid > 0 and job.last_entry != f"{eid}-0":
            self._note(Kind.EVENT_IDS, expected, f"{job.last_entry} as the last one")
        num_choices = int(job.record.get("n", 1))
        beyond = max(self._ids, default=0)
        if beyond >= num_choices:
            self._note(Kind.POSITIONS, f"{num_choices} choices", f"tokens of choice {beyond}")
        counted = {choice: int(count) for choice, count in job.positions.items()}
        committed = {str(choice): len(ids) for choice, ids in self._ids.items()}
        for choice in sorted(counted.keys() | committed.keys()):
            have, want = committed.get(choice, 0), counted.get(choice, 0)
            if have != want:
                expected = f"{want} tokens of choice {choice}, as the record counts"
                self._note(Kind.POSITIONS, expected, f"{have} in the stream")

    def compare_end(self, status: JobStatus, eid: int) -> None:
        """Compare with the record's status: an end is the last event, and there is one at most."""
        found = [(entry_id, event.status) for entry_id, event in self._ends]
        if found != ([(f"{eid}-0", status)] if status.is_final else []):
            expected = f"one end, {status}, at {eid}-0" if status.is_final else "no end yet"
            shown = ", ".join(f"{ended} at {entry_id}" for entry_id, ended in found)
            self._note(Kind.LAST_EVENT, expected, shown or "no end")

    def compare_result(self, packed: str | None) -> None:
        """Compare with the result of an ended job."""
        if packed is None:
            # A job that failed before its first token has none.
            num_tokens = sum(len(ids) for ids in self._ids.values())
            if num_tokens:
                self._note(Kind.RESULT, f"a result of {num_tokens} tokens", "none")
            return
        try:
            choices = [
                (
                    str(c["text"]),
                    list(c["token_ids"]),
                    [TokenLogprobs.unpack(each) for each in c.get("logprobs", ())],
                )
                for c in json.loads(packed)
            ]
        except (ValueError, KeyError, TypeError):
            self._note(Kind.RESULT, "a list of choices", "something else")
            return
        missing = sorted(choice for choice in self._ids if choice >= len(choices))
        if missing:
            self._note(
                Kind.RESULT, f"choice {missing[0]}, as in the stream", f"{len(choices)} choices"
            )
        for choice, (text, ids, logprobs) in enumerate(choices):
            self._compare_choice(choice, text, ids, logprobs)

    def _compare_choice(
        self, choice: int, text: str, ids: list[int], logprobs: list[TokenLogprobs]
    ) -> None:
        told_logprobs = self._logprobs.get(choice, [])
        if told_logprobs != logprobs:
            told, found = _told_apart(told_logprobs, logprobs, "log-probabilities")
            self._note(Kind.RESULT, f"{told} of choice {choice}, as in the stream", found)
        told_ids = self._ids.get(choice, [])
        if told_ids != ids:
            told, found = _told_apart(told_ids, ids, "tokens")
            self._note(Kind.RESULT, f"{told} of choice {choice}, as in the stream", found)
        # What a worker still held back when it was lost is in neither.
        tails = self._ends[-1][1].tails if self._ends else ()
        tail = tails[choice] if choice < len(tails) else ""
        told_text = "".join(self._texts.get(choice, [])) + tail
        if told_text != text:
            told, found = _told_apart(told_text, text, "characters")
            self._note(Kind.RESULT, f"{told} of choice {choice}, as in the stream", found)

    def _note(self, kind: Kind, expected: str, found: str) -> None:
        self.problems.setdefault(kind, (expected, found))


def _told_apart(told: Any, found: Any, unit: str) -> tuple[str, str]:
    """How two sequences differ, without what is in them."""
    pairs = enumerate(zip(told, found, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(told), len(found)))
    return f"{len(told)} {unit}", f"{len(found)}, the same up to {same}"
