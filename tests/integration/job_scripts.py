"""The scripts on a real Redis, through the classes that call them, with the methods of `JobModel`.

Also what makes time pass, or breaks things, from outside of the scripts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

from common import keys
from common.connection import AsyncRedis, SyncRedis
from common.errors import ModelLoadError, RequestError
from common.event_stream import Append, Appended, EventWriter
from common.events import TokenEvent
from common.fleet import ServedModel, WorkerInfo
from common.invariants import Checker, Violation
from common.job_store import Claims, FencedError, Holding, Idempotency, Pulse, Submissions
from common.reaping import Reaped, Reaping
from common.schemas import JobSpec, Outcome
from common.settings import Settings
from tests.integration.job_state import LONG_AGO, Claimed, Message, State, When, read_state
from tests.integration.stores import MODEL

CANNOT_LOAD = ModelLoadError("no such file")
LONG_AGO_MS = 1
FAR_AHEAD_MS = 2**53
MESSAGE_TIMEOUT_S = 2.0

T = TypeVar("T")


class JobScripts:
    """Gateway, workers, launcher and reaper, as they call the scripts.

    Args:
        runner: Runs what is asynchronous.
    """

    def __init__(
        self, client: SyncRedis, aclient: AsyncRedis, runner: asyncio.Runner, settings: Settings
    ) -> None:
        self._client = client
        self._runner = runner
        self._settings = settings
        self._submissions = Submissions(aclient, settings)
        self._events = EventWriter(client)
        self._reaping = Reaping(client, settings)
        self._job_ids: list[str] = []
        self._num_examples = 0
        self._listener: Any = cast(Any, client).pubsub()
        self._listener.psubscribe(keys.BELL + "*", keys.CANCEL)

    def begin(self, claims: int) -> None:
        """Forget everything, also the messages that an example that failed has left unread."""
        self._client.flushall()
        self._job_ids.clear()
        self._num_examples += 1
        last = f"example {self._num_examples}"
        self._client.publish(keys.CANCEL, last)
        while self._listener.get_message(timeout=MESSAGE_TIMEOUT_S)["data"] != last:
            pass
        self._client.hset(keys.SCHED + MODEL, "claims", claims)

    def close(self) -> None:
        self._client.flushall()
        self._listener.close()

    def state(self) -> State:
        return read_state(self._client, self._job_ids)

    def violations(self) -> Sequence[Violation]:
        """Of the invariants that hold for any service."""
        checker = Checker(self._client, self._settings, quiescent=True, pause=lambda _: None)
        return checker.run().violations

    def next_messages(self, count: int) -> list[Message]:
        """What was published next."""
        return [self._next_message() for _ in range(count)]

    def _next_message(self) -> Message:
        message = self._listener.get_message(timeout=MESSAGE_TIMEOUT_S)
        assert message is not None, "a message is missing"
        if message["channel"] == keys.CANCEL:
            return message["data"], None, {}
        eid, payload = message["data"].split(" ", 1)
        return message["channel"].removeprefix(keys.BELL), int(eid), json.loads(payload)

    # The gateway

    def submit(self, specs: Sequence[JobSpec], idem: Idempotency | None) -> Any:
        answer = self._wait_for(self._submissions.submit(*specs, idempotency=idem))
        if isinstance(answer, str):
            return answer
        if answer.replayed is None:
            self._job_ids += [spec.job_id for spec in specs]
            return answer.queue_position
        jobs = [(job.job_id, job.status, job.stream_token) for job in answer.replayed.jobs]
        return answer.queue_position, answer.replayed.group_id, jobs

    def cancel(self, job_id: str, key_id: str) -> Any:
        return self._wait_for(self._submissions.cancel(job_id, key_id))

    def _wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T | str:
        return _answer_of(lambda: self._runner.run(coroutine))

    # A worker

    def claim(self, worker: str, nonce: str, revision: str) -> Claimed | None:
        claim = self._claims(worker).claim({MODEL: revision}, nonce)
        if claim is None:
            return None
        job_id, record = claim.record.job_id, claim.record
        choices: list[tuple[int, ...]] = [()] * record.sampling.n
        for event in self._events.committed(job_id):
            choices[event.choice] += event.token_ids
        assert sum(map(len, choices)) == record.completion_tokens
        return Claimed(job_id, record.attempts, tuple(choices))

    def append(self, job_id: str, nonce: str, event: TokenEvent, used_ms: int) -> Appended:
        [answer] = self._events.append([Append(job_id, nonce, event, used_ms)])
        return answer

    def finish(self, job_id: str, nonce: str, outcome: Outcome, used_ms: int) -> Any:
        return _answer_of(lambda: self._claims().finish(job_id, nonce, outcome, used_ms))

    def restart(self, job_id: str, nonce: str) -> str | None:
        return _answer_of(lambda: self._claims().restart(job_id, nonce))

    def release(self, job_id: str, nonce: str) -> str:
        return self._claims().release(job_id, nonce)

    def heartbeat(self, worker: str, revision: str | None, held: Iterable[Holding]) -> Pulse:
        served = ServedModel("ready" if revision else "error", revision=revision)
        info = WorkerInfo(worker, "host", 1, "0", "cpu", 8, 0, {MODEL: served})
        return self._claims(worker).heartbeat(info.pack(), held)

    def leave(self, worker: str) -> None:
        self._claims(worker).leave()

    def fail_ready(self) -> list[str]:
        return self._claims().fail_ready(MODEL, CANNOT_LOAD)

    def _claims(self, worker: str = "any") -> Claims:
        return Claims(self._client, self._settings, worker)

    # What becomes of lost jobs

    def hand_back(self, worker: str) -> Reaped:
        return _sorted(self._reaping.hand_back(worker))

    def reap(self, is_after_outage: bool) -> Reaped:
        # Never the time that has really passed since the last one.
        self._client.set(keys.REAPED, LONG_AGO_MS if is_after_outage else FAR_AHEAD_MS)
        return _sorted(self._reaping.reap())

    # From outside

    def let_lease_pass(self, job_id: str) -> None:
        self._client.zadd(keys.LEASES, {job_id: LONG_AGO_MS})

    def let_wait_pass(self, job_id: str) -> None:
        self._client.hset(keys.job(job_id), "requeued_ms", LONG_AGO_MS)

    def let_announcement_pass(self, worker: str, heard: When) -> None:
        self._client.delete(keys.worker(worker))
        seconds, _ = self._client.time()
        ago_ms = (seconds - 2 * keys.WORKER_TTL_S) * 1000
        self._client.zadd(keys.WORKERS, {worker: LONG_AGO_MS if heard is LONG_AGO else ago_ms})

    def let_lifetime_pass(self, job_id: str, is_record_gone: bool) -> None:
        self._client.delete(keys.events(job_id))
        if is_record_gone:
            self._client.delete(keys.job(job_id))

    def spend_permits(self) -> None:
        self._client.delete(keys.permits(MODEL))

    def let_idempotency_pass(self) -> None:
        for name in self._client.keys(keys.IDEMPOTENCY + "*"):
            self._client.delete(name)

    def delete_record(self, job_id: str) -> None:
        self._client.delete(keys.job(job_id))


def _answer_of(call: Callable[[], T]) -> T | str:
    """What a call returns, or the name of the error that it raises."""
    try:
        return call()
    except (FencedError, RequestError) as error:
        return type(error).__name__


def _sorted(reaped: Reaped) -> Reaped:
    """Leases of one millisecond are in any order."""
    return Reaped(tuple(sorted(reaped.requeued)), tuple(sorted(reaped.ended)))
