"""One reader of Redis for all the streams and waits of this gateway.

A job's doorbell (`keys.bell`) is subscribed to while anybody here watches the job. Pub/sub loses
messages, so nothing rests on it: each doorbell carries the event's id, a gap makes the watch read
the stream itself, and once a second, and whenever a subscription is confirmed (which includes
every reconnect), the records of all watched jobs are looked at again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio.client import PubSub

from api.background import forever
from api.watch import EndWait, Listener, StatusChange, Update, Watch
from common import keys
from common.connection import AsyncRedis, translated_errors
from common.errors import RedisUnavailableError
from common.event_stream import EventReader
from common.events import StreamEvent, unpack_event
from common.schemas import JobRecord, JobStatus

SWEEP_S = 1.0
SWEEP_BATCH = 256
CONFIRM_S = 1.0
RETRY_S = 0.25
# Redis refuses to listen on no channel at all, so this one, which nobody rings, is always there.
_NOBODY = keys.bell("-")

_log = logging.getLogger(__name__)


class _Topic:
    """A watched job: who watches it, and how far its subscription is."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self.is_requested = False
        self.confirmed = asyncio.Event()

    def forget_subscription(self) -> None:
        self.is_requested = False
        self.confirmed.clear()


class Watcher:
    """Tells watches and waits of their jobs' progress; survives Redis's restarts."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client
        self._reader = EventReader(client)
        self._topics: dict[str, _Topic] = {}
        self._pubsub: PubSub | None = None
        # Held while `_align` commands: a command to a closed PubSub would take another connection,
        # which nobody closes.
        self._commanding = asyncio.Lock()
        self._sweep_now = asyncio.Event()
        self._topics_changed = asyncio.Event()
        self._is_closed = False
        self._is_away = False

    async def run(self) -> None:
        """Serve the listeners until cancelled."""
        await asyncio.gather(forever(self._listen), forever(self._align), forever(self._sweep))

    @property
    def num_watched(self) -> int:
        """Jobs that somebody watches."""
        return len(self._topics)

    @property
    def is_closed(self) -> bool:
        """Whether the gateway shuts down."""
        return self._is_closed

    def close(self) -> None:
        """End every watch and every wait, those to come included."""
        self._is_closed = True
        for topic in self._topics.values():
            for listener in topic.listeners:
                listener.close()

    @asynccontextmanager
    async def watch(self, record: JobRecord, after_eid: int) -> AsyncIterator[Watch]:
        """Watch the events of a job after the one that the client has; 0 for all."""
        watch = Watch(record, after_eid, self._reader.after)
        async with self._listening(record.job_id, watch):
            yield watch

    async def wait_for_end(self, job_id: str, timeout_s: float) -> bool:
        """Whether the job ends within the time; False also where the gateway shuts down."""
        wait, end_s = EndWait(), asyncio.get_running_loop().time() + timeout_s
        async with self._listening(job_id, wait):
            try:
                async with asyncio.timeout_at(end_s):
                    return await wait.wait()
            except TimeoutError:
                return False

    @asynccontextmanager
    async def _listening(self, job_id: str, listener: Listener) -> AsyncIterator[None]:
        topic = self._topics.setdefault(job_id, _Topic())
        topic.listeners.add(listener)
        if self._is_closed:
            listener.close()
        try:
            await self._confirm(job_id, topic)
            yield
        finally:
            # Nothing is awaited here: a client that hangs up cancels what is.
            topic.listeners.discard(listener)
            if not topic.listeners and self._topics.get(job_id) is topic:
                del self._topics[job_id]
                self._topics_changed.set()

    async def _confirm(self, job_id: str, topic: _Topic) -> None:
        """Have the job subscribed to, then look at its record: no event falls between the two.

        Where Redis is away, the sweep makes up for it.
        """
        self._topics_changed.set()
        try:
            async with asyncio.timeout(CONFIRM_S):
                await topic.confirmed.wait()
        except TimeoutError:
            return
        with suppress(RedisUnavailableError):
            await self._look([job_id])

    async def _align(self) -> None:
        """Subscribe to what is watched now, and to nothing else.

        Done by one task for all clients: a client that hangs up would break off its command in
        the middle, and with it everybody's connection.
        """
        await self._topics_changed.wait()
        self._topics_changed.clear()
        async with self._commanding:
            if self._pubsub is not None:
                await self._align_with_topics(self._pubsub)

    async def _align_with_topics(self, pubsub: PubSub) -> None:
        fresh = {j: topic for j, topic in self._topics.items() if not topic.is_requested}
        wanted = {_NOBODY, *(keys.bell(job_id) for job_id in self._topics)}
        stale = set(pubsub.channels) - pubsub.pending_unsubscribe_channels - wanted
        try:
            with translated_errors():
                for topic in fresh.values():
                    topic.is_requested = True
                if fresh:
                    await pubsub.subscribe(*(keys.bell(job_id) for job_id in fresh))
                if stale:
                    await pubsub.unsubscribe(*stale)
        except RedisUnavailableError:
            return

    async def _listen(self) -> None:
        try:
            with translated_errors():
                await self._listen_until_lost()
        except RedisUnavailableError:
            if not self._is_away:
                _log.warning("Redis is away; %d jobs are watched", self.num_watched)
            self._is_away = True
            await asyncio.sleep(RETRY_S)

    async def _listen_until_lost(self) -> None:
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(_NOBODY, *(keys.bell(job_id) for job_id in self._topics))
            self._pubsub = pubsub
            try:
                while True:
                    message = await pubsub.get_message(timeout=SWEEP_S)
                    if message is not None:
                        self._hear(message)
            finally:
                async with self._commanding:
                    self._pubsub = None
                for topic in self._topics.values():
                    topic.forget_subscription()

    def _hear(self, message: dict[str, Any]) -> None:
        if self._is_away:
            self._is_away = False
            _log.info("Redis is back; %d jobs are watched", self.num_watched)
        topic = self._topics.get(message["channel"].removeprefix(keys.BELL))
        if topic is None:
            return
        if message["type"] == "subscribe":
            topic.confirmed.set()
            self._sweep_now.set()
        elif message["type"] == "message":
            update = _read_bell(message["data"])
            for listener in topic.listeners:
                listener.offer(update)

    async def _sweep(self) -> None:
        """Look at every watched job, and subscribe to those that are not confirmed yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_S):
                await self._sweep_now.wait()
        self._sweep_now.clear()
        job_ids = list(self._topics)
        try:
            for start in range(0, len(job_ids), SWEEP_BATCH):
                await self._look(job_ids[start : start + SWEEP_BATCH])
        except RedisUnavailableError:
            return
        for topic in self._topics.values():
            if not topic.confirmed.is_set():
                topic.is_requested = False
        self._topics_changed.set()

    async def _look(self, job_ids: Sequence[str]) -> None:
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.hmget(keys.job(job_id), ["status", "eid"])
            answers = await pipe.execute()
        for job_id, (status, eid) in zip(job_ids, answers, strict=True):
            topic = self._topics.get(job_id)
            for listener in topic.listeners if topic is not None else ():
                if status is None:
                    listener.vanish()
                else:
                    listener.observe(JobStatus(status), int(eid))


def _read_bell(data: str) -> Update:
    eid, _, payload = data.partition(" ")
    if eid == "0":
        return StatusChange(JobStatus(json.loads(payload)["status"]))
    return StreamEvent(int(eid), unpack_event(payload))
