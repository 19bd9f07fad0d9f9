"""Cancels the jobs whose clients have gone.

A job without an idempotency key has one client: when that hangs up, the job is cancelled at once.
A job with a key is cancelled `keys.WAITED_TTL_S` after the last client that waited for it, at any
gateway, has gone. Where a gateway dies in the meantime its jobs run to their end, which is no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress

from api.background import end
from api.cancelling import Canceller
from common.errors import NotFoundError, RedisUnavailableError, TaskExpiredError
from common.waited import WaitedJobs

RENEW_S = 10.0
"""Between two renewals of a mark that says that a client waits."""
RETRY_S = 0.5
CLOSE_S = 2.0
"""What cancels under way get when the gateway stops."""


class Visit:
    """One client's wait for some jobs.

    Attributes:
        is_over: It got what it came for: nothing is cancelled when it leaves.
    """

    def __init__(self) -> None:
        self.is_over = False


class Attendance:
    """Knows which clients wait, and cancels what nobody waits for."""

    def __init__(self, canceller: Canceller, waited: WaitedJobs) -> None:
        self._canceller = canceller
        self._waited = waited
        self._cancelling: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()

    @contextmanager
    def of(self, job_ids: Sequence[str], key_id: str, *, is_keyed: bool) -> Iterator[Visit]:
        """Attend to jobs while a client waits for them.

        Nothing is awaited at the end: a client that hangs up cancels what is.

        Args:
            job_ids: The jobs.
            key_id: Their owner.
            is_keyed: They came with an idempotency key.
        """
        visit = Visit()
        renewing = asyncio.create_task(self._renew(job_ids)) if is_keyed else None
        try:
            yield visit
        finally:
            if renewing is not None:
                renewing.cancel()
            if not visit.is_over and is_keyed:
                self._start(self._lingering, self._linger(job_ids, key_id))
            elif not visit.is_over:
                self._start(self._cancelling, self._cancel(job_ids, key_id))

    async def close(self) -> None:
        """Let the cancels under way come through, and forget the jobs that may be asked for again.

        Their clients come back to another gateway; where they do not, these jobs run to their end.
        """
        if self._cancelling:
            await asyncio.wait(self._cancelling, timeout=CLOSE_S)
        await end(*self._cancelling, *self._lingering)

    def _start(self, tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _renew(self, job_ids: Sequence[str]) -> None:
        while True:
            with suppress(RedisUnavailableError):
                await self._waited.mark(job_ids)
            await asyncio.sleep(RENEW_S)

    async def _linger(self, job_ids: Sequence[str], key_id: str) -> None:
        await self._mark(job_ids)
        await asyncio.gather(*(self._cancel_unwaited(job_id, key_id) for job_id in job_ids))

    async def _mark(self, job_ids: Sequence[str]) -> None:
        while True:
            try:
                return await self._waited.mark(job_ids)
            except RedisUnavailableError:
                await asyncio.sleep(RETRY_S)

    async def _cancel_unwaited(self, job_id: str, key_id: str) -> None:
        while True:
            try:
                remaining_s = await self._waited.remaining_s(job_id)
            except RedisUnavailableError:
                remaining_s = RETRY_S
            if not remaining_s:
                return await self._cancel([job_id], key_id)
            await asyncio.sleep(remaining_s)

    async def _cancel(self, job_ids: Sequence[str], key_id: str) -> None:
        for job_id in job_ids:
            # Dropped already: there is nothing left to cancel.
            with suppress(NotFoundError, TaskExpiredError):
                await self._cancel_one(job_id, key_id)

    async def _cancel_one(self, job_id: str, key_id: str) -> None:
        while True:
            try:
                await self._canceller.cancel(job_id, key_id)
                return
            except RedisUnavailableError:
                await asyncio.sleep(RETRY_S)
