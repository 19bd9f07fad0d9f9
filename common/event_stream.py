"""The token stream of a job: appended by position, read by event id.

Two disjoint halves: `EventWriter` is the worker's (blocking), `EventReader` the gateway's
(asynchronous). The order of a job's events is that of their ids: 1, 2, 3, ... without a gap, over
all its workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import NoScriptError

from common import keys
from common.connection import AsyncRedis, Script, SyncRedis, translated_errors
from common.events import RestartEvent, StreamEvent, TokenEvent, unpack_event

READ_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Append:
    """Tokens to commit to a claimed job.

    Attributes:
        used_ms: Its execution time so far.
        epoch: As in `Claims.restart`.
    """

    job_id: str
    nonce: str
    event: TokenEvent
    used_ms: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Appended:
    """Redis's answer to one append.

    Attributes:
        fenced: The job is no longer this claim's; nothing was committed.
        committed: Tokens of the choice that Redis has now. Less than was sent means: send again
            from there. More means that this was sent before.
        cancelled: The job's owner has cancelled it.
    """

    fenced: bool
    committed: int = 0
    cancelled: bool = False


class EventWriter:
    """The worker's half."""

    _append = Script("append")

    def __init__(self, client: SyncRedis) -> None:
        self._client = client

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Commit the tokens of many jobs in one round trip, each by itself.

        Raises:
            RedisUnavailableError: Redis is away; some may have been committed. Repeat the call.
        """
        with translated_errors():
            try:
                answers = self._send(appends)
            except NoScriptError:
                answers = self._send(appends, with_script=True)
        return [_read_answer(answer) for answer in answers]

    def committed(self, job_id: str) -> list[TokenEvent]:
        """The token events of a job that hold, in order: what a new worker has to replay."""
        with translated_errors():
            entries = cast(Any, self._client.xrange(keys.events(job_id)))
        held: list[TokenEvent] = []
        for _, values in entries:
            event = unpack_event(values["d"])
            if isinstance(event, RestartEvent):
                held.clear()
            elif isinstance(event, TokenEvent):
                held.append(event)
        return held

    def _send(self, appends: Sequence[Append], *, with_script: bool = False) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        if with_script:
            # On the same connection: by the next one the server may have restarted again.
            pipe.script_load(self._append.source)
        for append in appends:
            event = append.event
            pipe.evalsha(
                self._append.sha,
                0,
                *(append.job_id, append.nonce, event.choice, event.position),
                *(len(event.token_ids), event.pack(), append.used_ms, append.epoch),
            )
        answers = pipe.execute()
        return answers[1:] if with_script else answers


class EventReader:
    """The gateway's half."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client

    async def after(self, job_id: str, eid: int, limit: int = READ_LIMIT) -> list[StreamEvent]:
        """The events after `eid`, oldest first, `limit` at most; [] where the stream is gone."""
        with translated_errors():
            entries = await cast(
                Any, self._client.xrange(keys.events(job_id), min=f"({eid}-0", count=limit)
            )
        return [
            StreamEvent(int(entry_id.split("-")[0]), unpack_event(values["d"]))
            for entry_id, values in entries
        ]


def _read_answer(answer: list[Any]) -> Appended:
    if answer[0] == "fenced":
        return Appended(fenced=True)
    return Appended(fenced=False, committed=int(answer[1]), cancelled=bool(answer[2]))
