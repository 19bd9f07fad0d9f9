"""Jobs in each kind of state for the checker to look at, and ways to break them by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import keys
from common.connection import SyncRedis
from common.events import TokenEvent
from common.invariants import Checker, Kind, Report
from common.job_store import Claim
from common.schemas import ChoiceResult, JobStatus, Outcome
from tests.integration.stores import MODEL, Bench, settings

LINE = keys.ready(MODEL, "normal")
OTHER_LINE = keys.ready(MODEL, "low")


@dataclass(frozen=True)
class StoredJobs:
    """One job in each kind of state, by its id; what the tests break."""

    bench: Bench
    running: str
    ended: str
    queued: str

    @property
    def client(self) -> SyncRedis:
        return self.bench.client

    def set_field(self, job_id: str, name: str, value: str) -> None:
        self.client.hset(keys.job(job_id), name, value)

    def drop_field(self, job_id: str, name: str) -> None:
        self.client.hdel(keys.job(job_id), name)

    def set_result(self, result: object) -> None:
        self.set_field(self.ended, "result", json.dumps(result))

    def add_event(self, job_id: str, event: object) -> None:
        """Add an event as the scripts do, whatever it says."""
        eid = self.client.hincrby(keys.job(job_id), "eid", 1)
        self.client.xadd(keys.events(job_id), {"d": json.dumps(event)}, f"{eid}-0")

    def add_entry(self, entry_id: str) -> None:
        """Add an entry to the running job's stream that the record counts as one more."""
        self.client.hincrby(keys.job(self.running), "eid", 1)
        event = TokenEvent(2, (), ()).pack()
        self.client.xadd(keys.events(self.running), {"d": event}, entry_id)

    def add_textless(self) -> None:
        """Add a token without its text."""
        self.set_field(self.running, "pos:0", "3")
        self.add_event(self.running, {"c": 0, "p": 2, "i": [9], "t": []})

    def drop_end(self) -> None:
        """Take the end out of the ended job, as if it had never been written."""
        eid = self.client.hincrby(keys.job(self.ended), "eid", -1)
        self.client.xdel(keys.events(self.ended), f"{eid + 1}-0")
        self.set_result([choice("<7><8>")])

    def add_other_choice(self, job_id: str, choice: int) -> None:
        """Commit a token of another choice, by hand."""
        self.set_field(job_id, f"pos:{choice}", "1")
        self.add_event(job_id, tokens(0, 9) | {"c": choice})

    def add_ended_choice(self) -> None:
        """Give the ended job a second choice, which its result does not have."""
        self.client.delete(keys.events(self.ended))
        self.set_field(self.ended, "eid", "0")
        self.set_field(self.ended, "n", "2")
        self.add_event(self.ended, tokens(0, 7, 8))
        self.add_other_choice(self.ended, 1)
        self.add_event(self.ended, end("completed"))
        self.client.expire(keys.events(self.ended), 99)

    def add_lease(self, job_id: str, ahead_s: float = 5) -> None:
        self.client.zadd(keys.LEASES, {job_id: (time.time() + ahead_s) * 1000})

    def move_to_other_line(self) -> None:
        self.client.zrem(LINE, self.queued)
        self.client.zadd(OTHER_LINE, {self.queued: 3})


async def store_jobs(bench: Bench) -> StoredJobs:
    """One runs with the tokens 5 and 6, one has ended with 7 and 8, one waits."""
    running, ended, queued = [await bench.submit() for _ in range(3)]
    bench.append(bench.claim(), 0, 5, 6)
    finish(bench, bench.claim(), 7, 8)
    return StoredJobs(bench, running, ended, queued)


def finish(bench: Bench, claim: Claim, *tokens: int) -> None:
    """Commit tokens in an event each, then end the job with them and a tail."""
    for position, token in enumerate(tokens):
        assert not bench.append(claim, position, token).fenced
    text = "".join(f"<{token}>" for token in tokens) + "."
    outcome = Outcome(JobStatus.COMPLETED, (ChoiceResult(text, tokens, "stop"),), (".",))
    assert bench.claims.finish(claim.record.job_id, claim.nonce, outcome, 9) is None


def tokens(position: int, *ids: int) -> dict[str, Any]:
    """A packed event of tokens."""
    return {"c": 0, "p": position, "i": ids, "t": [f"<{i}>" for i in ids]}


def end(status: str) -> dict[str, Any]:
    """A packed end."""
    return {"s": status, "t": ["."]}


def choice(text: str, *ids: int) -> dict[str, Any]:
    """A packed choice of the ended job's result."""
    return {"text": text, "token_ids": ids or (7, 8), "finish_reason": "stop"}


def check(
    client: SyncRedis, pause: Callable[[float], object] = lambda seconds: None, **of: Any
) -> Report:
    """Check everything; by default the second look follows the first at once."""
    return Checker(client, settings(), pause=pause, **of).run()


def kinds(client: SyncRedis, **of: Any) -> set[Kind]:
    """The kinds of violations that a check finds."""
    return {violation.kind for violation in check(client, **of).violations}
