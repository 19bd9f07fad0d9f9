"""Follows a response's job, and tells its events from a number on.

Reads the job's events from the first one on for every client, and leaves out what it has: so the
numbers need not be kept anywhere. Once Redis has dropped the events, the answer comes as a whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from api.deltas import ended_record, shutting_down
from api.gateway import Gateway
from api.openai.responses.events import ResponseEvents
from api.openai.responses.output import Event
from api.openai.responses.reply import Reply
from api.openai.responses.view import Reading
from api.watch import HistoryGone, StatusChange, Update, WatchClosed
from common.events import EndEvent, RestartEvent
from common.schemas import JobRecord, JobStatus

NOTHING = -1
"""The number that a client has which has nothing yet."""


class ResponseStream:
    """One client's view of one response.

    Args:
        record: The job as it stands; afterwards, as it has ended.
        after: The number of the last event that the client has, or `NOTHING`.
        tick_s: Silence after which an empty batch comes, at the latest.
    """

    def __init__(
        self, gateway: Gateway, record: JobRecord, reply: Reply, after: int, tick_s: float
    ) -> None:
        self.record = record
        self._gateway = gateway
        self._reply = reply
        self._after = after
        self._tick_s = tick_s
        self._events = ResponseEvents(record, reply)
        self._taken_eid = 0
        self._has_told_items = after >= self._events.num_opening
        self._is_over = False

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """The events after the client's last one, in order; an empty batch is silence.

        Ends after the response's last event, or after the one that voids what the client has.

        Raises:
            ShuttingDownError: The gateway stops.
            InternalError: The response was dropped before it could be read.
            RedisUnavailableError: Redis is away, and the tokenizer is not here yet.
        """
        yield self._unknown(self._opening())
        async with aclosing(self._pages()) as pages:
            async for updates in pages:
                batch = self._unknown(await self._told(updates))
                self._has_told_items |= any(self._is_of_item(event) for event in batch)
                yield batch
                if self._is_over:
                    return
        yield self._unknown(await self._snapshot())

    def _opening(self) -> list[Event]:
        waits = self.record.status is JobStatus.QUEUED and self.record.started_ms is None
        events = self._events.created()
        return events if waits and self._reply.is_background else events + self._events.started()

    async def _pages(self) -> AsyncGenerator[Sequence[Update], None]:
        """All updates; returns where Redis has dropped them."""
        while True:
            try:
                async with self._gateway.watcher.watch(self.record, self._taken_eid) as watch:
                    while True:
                        yield await watch.take(self._tick_s)
            except WatchClosed:
                # Else the client reads slowly: the watch is opened again where it was.
                if self._gateway.watcher.is_closed:
                    raise shutting_down() from None
            except HistoryGone:
                return

    async def _told(self, updates: Sequence[Update]) -> list[Event]:
        batch: list[Event] = []
        for update in updates:
            if isinstance(update, StatusChange):
                if update.status is JobStatus.PROCESSING:
                    batch += self._events.started()
                continue
            self._taken_eid = update.eid
            batch += self._events.started()
            if isinstance(update.event, RestartEvent):
                batch = self._restarted(batch)
            elif isinstance(update.event, EndEvent):
                batch += await self._ended("".join(update.event.tails[:1]))
            elif update.event.choice == 0:
                await self._read()
                batch += self._events.token(update.event)
            if self._is_over:
                break
        return batch

    def _restarted(self, batch: list[Event]) -> list[Event]:
        """What is told of a restart: nothing to a client that has none of what is void."""
        [error] = self._events.restarted()
        if not self._has_told_items:
            return [event for event in batch if not self._is_of_item(event)]
        self._is_over = error["sequence_number"] > self._after
        return [*batch, error]

    async def _ended(self, tail: str) -> list[Event]:
        self.record = await ended_record(self._gateway.jobs, self.record.job_id)
        self._is_over = True
        await self._read()
        return self._events.ended(self.record, tail)

    async def _snapshot(self) -> list[Event]:
        """The end of a response whose events are gone: the rest of its text in one event.

        A client that has a part of them, nobody knows which, gets the last event alone.
        """
        record = await ended_record(self._gateway.jobs, self.record.job_id)
        told = self._events.started()
        text = "".join(choice.text for choice in record.choices[:1])
        is_exact = not self._has_told_items or self._events.num_events > self._after
        if is_exact and text.startswith(self._events.text):
            return told + await self._ended(text.removeprefix(self._events.text))
        [*_, last] = await self._ended(text)
        return [{**last, "sequence_number": max(self._after + 1, last["sequence_number"])}]

    async def _read(self) -> None:
        if not self._events.is_reading:
            reading = await Reading.of(self._gateway, self.record, self._reply)
            self._events.read_as(reading)

    def _is_of_item(self, event: Event) -> bool:
        number: int = event["sequence_number"]
        return number >= self._events.num_opening

    def _unknown(self, events: list[Event]) -> list[Event]:
        """Those that the client does not have."""
        return [event for event in events if event["sequence_number"] > self._after]
