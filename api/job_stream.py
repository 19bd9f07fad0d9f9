"""The frames of one job's stream, from an event id on to the job's end.

Token frames carry the id of the last event in them; frames of status changes carry none. All
`token`s put together are the result, except that a frame with `snapshot` replaces what was before:
one also with `restarted` where the job had to begin again from nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from api.job_views import (
    error_type_of,
    first_choice,
    logprobs_of,
    message_of,
    metrics_of,
    progress_of,
    routing_of,
    status_message,
)
from api.sse import HEARTBEAT, HEARTBEAT_S, RETRY, frame
from api.watch import HistoryGone, StatusChange, Update, Watch, WatchClosed
from api.watcher import Watcher
from common.errors import RedisUnavailableError
from common.events import EndEvent, RestartEvent, TokenEvent
from common.job_store import Submissions
from common.schemas import JobRecord, JobStatus

COALESCE_S = 0.025
LIFETIME_S = 900.0
RETRY_S = 0.5


class JobStream:
    """One client's stream.

    Args:
        record: The job as it stands.
        after_eid: The last event that the client has; 0 for none.
        queue_position: The job's place in line, where it waits.
        is_replacing: What the client has is not of this stream: the first tokens replace it.
    """

    def __init__(
        self,
        jobs: Submissions,
        watcher: Watcher,
        record: JobRecord,
        after_eid: int,
        *,
        queue_position: int | None = None,
        is_replacing: bool = False,
    ) -> None:
        self._jobs = jobs
        self._watcher = watcher
        self._record = record
        self._after_eid = after_eid
        self._queue_position = queue_position
        self._is_replacing = is_replacing
        self._sent_s = 0.0
        self._tokens_sent_s = 0.0
        self._num_tokens = record.completion_tokens
        self._text = ""  # of events that no frame has carried yet
        self._logprobs: list[dict[str, Any]] = []  # of the same
        self._eid: int | None = None  # the last of these events
        self._is_restarted = False
        self._has_ended = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """All frames; ends after the job's last one, or where the client has to come again."""
        yield RETRY
        if not self._record.status.is_final:
            yield self._status_frame(self._record.status)
        self._sent_s = time.monotonic()
        end_s = self._sent_s + LIFETIME_S
        async with self._watcher.watch(self._record, self._after_eid) as watch:
            while not self._has_ended:
                try:
                    updates = await self._next(watch)
                except HistoryGone:
                    break
                except WatchClosed:
                    return
                for body in self._frames_of(updates):
                    yield body
                    self._sent_s = time.monotonic()
                if time.monotonic() > end_s:
                    return
        last = await self._last_frame()
        if last is not None:
            yield last

    async def _next(self, watch: Watch) -> list[Update]:
        """Updates; after the first tokens, merged over the pause that is kept between frames."""
        updates = await watch.take(HEARTBEAT_S)
        pause_s = self._tokens_sent_s + COALESCE_S - time.monotonic()
        if updates and pause_s > 0 and not _is_end(updates[-1]):
            await asyncio.sleep(pause_s)
            updates += await watch.take(0)
        return updates

    def _frames_of(self, updates: Sequence[Update]) -> Iterator[bytes]:
        for update in updates:
            if isinstance(update, StatusChange):
                yield from self._token_frame()
                self._queue_position = None
                yield self._status_frame(update.status)
            elif isinstance(update.event, EndEvent):
                self._text += "".join(update.event.tails[:1])
                self._eid, self._has_ended = update.eid, True
            elif isinstance(update.event, RestartEvent):
                # All that was sent, and what is still to be sent, is replaced by what comes now.
                self._text, self._num_tokens, self._eid = "", 0, update.eid
                self._logprobs = []
                self._is_replacing = self._is_restarted = True
            elif update.event.choice == 0:
                self._text += "".join(update.event.texts)
                self._logprobs += _logprobs_of(update.event)
                self._num_tokens = update.event.position + len(update.event.token_ids)
                self._eid = update.eid
        if not self._has_ended:
            yield from self._token_frame()
        if time.monotonic() - self._sent_s >= HEARTBEAT_S:
            yield HEARTBEAT

    def _token_frame(self) -> Iterator[bytes]:
        if self._eid is None:
            return
        data = self._data(JobStatus.PROCESSING, self._text)
        if self._is_restarted:
            data["restarted"] = True
        data["progress"]["completion_tokens"] = self._num_tokens
        if self._record.sampling.logprobs is not None:
            data["logprobs"] = self._logprobs
        yield frame(data, self._eid)
        self._text, self._logprobs, self._eid = "", [], None
        self._is_replacing = self._is_restarted = False
        self._tokens_sent_s = time.monotonic()

    def _status_frame(self, status: JobStatus) -> bytes:
        data = self._data(status, "")
        data.pop("snapshot", None)
        if status is JobStatus.QUEUED:
            data["queue_position"] = self._queue_position
        return frame(data)

    def _data(self, status: JobStatus, token: str) -> dict[str, Any]:
        data = {
            "status": status,
            "task_id": self._record.job_id,
            "message": status_message(status),
            "token": token,
            "progress": progress_of(self._record),
        }
        return {**data, "snapshot": True} if self._is_replacing else data

    async def _last_frame(self) -> bytes | None:
        """The frame of the job's end: what is left of the text, or all of it where events are gone.

        None where there is no end to tell: the client asks again.
        """
        record = await self._ended_record()
        if record is None or not record.status.is_final:
            return None
        if not self._has_ended:
            return end_frame(record)
        return end_frame(
            record,
            self._text,
            self._logprobs,
            is_snapshot=self._is_replacing,
            is_restarted=self._is_restarted,
        )

    async def _ended_record(self) -> JobRecord | None:
        while True:
            try:
                return await self._jobs.find(self._record.job_id)
            except RedisUnavailableError:
                await asyncio.sleep(RETRY_S)


def end_frame(
    record: JobRecord,
    token: str | None = None,
    logprobs: Sequence[dict[str, Any]] | None = None,
    *,
    is_snapshot: bool = True,
    is_restarted: bool = False,
) -> bytes:
    """The last frame of an ended job.

    Args:
        record: The job.
        token: The text that no frame has carried yet; None: all of it.
        logprobs: Of the tokens that no frame has carried yet; None: of all.
        is_snapshot: `token` replaces what the client had.
        is_restarted: Because the job began again from nothing.
    """
    choice = first_choice(record)
    data: dict[str, Any] = {
        "status": record.status,
        "task_id": record.job_id,
        "message": message_of(record),
        "token": choice.text if token is None else token,
        "progress": progress_of(record),
        "result": choice.text,
        "metrics": metrics_of(record),
        "finish_reason": choice.finish_reason,
        **routing_of(record),
    }
    if record.sampling.logprobs is not None:
        every = logprobs_of(choice.token_ids, choice.logprobs)
        data["logprobs"] = every if logprobs is None else logprobs
    if is_snapshot:
        data["snapshot"] = True
    if is_restarted:
        data["restarted"] = True
    if record.status in (JobStatus.FAILED, JobStatus.EXPIRED):
        data.update(error_message=message_of(record), error_type=error_type_of(record))
    return frame(data, record.last_eid)


def _logprobs_of(event: TokenEvent) -> list[dict[str, Any]]:
    return logprobs_of(event.token_ids, event.logprobs) if event.logprobs else []


def _is_end(update: Update) -> bool:
    return not isinstance(update, StatusChange) and isinstance(update.event, EndEvent)
