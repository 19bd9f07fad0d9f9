"""One client's view of one job's events: in order, without a gap, in bounded memory.

A watch is fed by the watcher, which calls out new events, and reads from Redis by itself what it
has not been told. Knows nothing about HTTP and nothing about pub/sub.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from common.errors import RedisUnavailableError
from common.events import EndEvent, StreamEvent
from common.schemas import JobRecord, JobStatus

BUFFER_LIMIT = 256
"""Updates that wait for a slow reader; one more, and it is cut."""
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A job went from waiting to running, or back; it has no place in the stream."""

    status: JobStatus


Update = StreamEvent | StatusChange


class WatchClosed(Exception):
    """The gateway shuts down, or the reader was too slow."""


class HistoryGone(Exception):
    """The events that the reader lacks are no longer kept."""


class Listener(Protocol):
    """What the watcher tells of a job's progress."""

    def offer(self, update: Update) -> None:
        """An update was called out."""

    def observe(self, status: JobStatus, eid: int) -> None:
        """The record was read: its status and the id of its last event."""

    def vanish(self) -> None:
        """There is no such record any more."""

    def close(self) -> None:
        """No more updates will come."""


class Watch:
    """The events of a job after the one that the client has.

    Args:
        record: The job as it stands.
        after_eid: The last event that the client has; 0 for none.
        read: Reads the events after an id, oldest first, a page at most.
    """

    def __init__(
        self,
        record: JobRecord,
        after_eid: int,
        read: Callable[[str, int], Awaitable[list[StreamEvent]]],
    ) -> None:
        self.job_id = record.job_id
        self._status = record.status
        self._read = read
        self._taken = after_eid  # the last event that the client took
        self._buffered = after_eid  # the last event in the buffer
        self._newest = record.last_eid  # the last event that is known to exist
        self._is_behind = True  # Redis may have events that the buffer lacks
        self._is_reading = False
        self._is_gone = False
        self._is_closed = False
        self._buffer: deque[Update] = deque()
        self._wake = asyncio.Event()

    async def take(self, timeout_s: float) -> list[Update]:
        """Wait for updates; [] where none came in time.

        Raises:
            WatchClosed: The watch was closed.
            HistoryGone: The events after the last one taken are no longer kept.
        """
        if not (self._buffer or self._is_behind or self._is_closed or self._is_gone):
            await self._wait(timeout_s)
        if self._is_closed:
            raise WatchClosed
        if self._buffer:
            updates = list(self._buffer)
            self._buffer.clear()
            self._taken = self._buffered
            return updates
        if self._is_gone:
            raise HistoryGone
        return await self._catch_up() if self._is_behind else []

    def offer(self, update: Update) -> None:
        """Source: Listener."""
        if isinstance(update, StatusChange):
            self._change_status(update.status)
            return
        self._newest = max(self._newest, update.eid)
        if self._is_behind or self._is_reading or update.eid > self._buffered + 1:
            self._fall_behind()
        elif update.eid == self._buffered + 1:
            self._buffered = update.eid
            self._keep(update)

    def observe(self, status: JobStatus, eid: int) -> None:
        """Source: Listener."""
        self._newest = max(self._newest, eid)
        if eid > self._buffered:
            self._fall_behind()
        if not status.is_final:  # an end is an event of its own
            self._change_status(status)

    def vanish(self) -> None:
        """Source: Listener."""
        self._is_gone = True
        self._wake.set()

    def close(self) -> None:
        """Source: Listener."""
        self._is_closed = True
        self._buffer.clear()
        self._wake.set()

    def _change_status(self, status: JobStatus) -> None:
        if status != self._status:
            self._status = status
            self._keep(StatusChange(status))

    def _keep(self, update: Update) -> None:
        if len(self._buffer) >= BUFFER_LIMIT:
            self.close()
        elif not self._is_closed:
            self._buffer.append(update)
        self._wake.set()

    def _fall_behind(self) -> None:
        self._is_behind = True
        self._wake.set()

    async def _catch_up(self) -> list[Update]:
        known = self._newest
        self._is_behind, self._is_reading = False, True
        try:
            events = await self._read(self.job_id, self._taken)
        except RedisUnavailableError:
            self._is_behind = True
            self._wake.clear()
            await self._wait(RETRY_S)
            return []
        finally:
            self._is_reading = False
        if not events and known > self._taken:
            raise HistoryGone
        if events:
            self._taken = self._buffered = events[-1].eid
        # More than a page, or called out while this page was read.
        self._is_behind = self._newest > self._taken
        return list(events)

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()


class EndWait:
    """Waits for nothing but a job's end."""

    def __init__(self) -> None:
        self.has_ended = False
        self._done = asyncio.Event()

    async def wait(self) -> bool:
        """Whether the job has ended; False where the wait was closed before."""
        await self._done.wait()
        return self.has_ended

    def offer(self, update: Update) -> None:
        """Source: Listener."""
        if isinstance(update, StreamEvent) and isinstance(update.event, EndEvent):
            self._end()

    def observe(self, status: JobStatus, eid: int) -> None:
        """Source: Listener."""
        if status.is_final:
            self._end()

    def vanish(self) -> None:
        """Source: Listener."""
        self._done.set()

    def close(self) -> None:
        """Source: Listener."""
        self._done.set()

    def _end(self) -> None:
        self.has_ended = True
        self._done.set()
