"""Several jobs' deltas as they come, in one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from api.background import end
from api.deltas import ChoiceDelta, JobDeltas

MAX_WAITING = 64
"""Batches that wait for a slow client, over all jobs; then the jobs' watches wait themselves."""

Batch = tuple[int, list[ChoiceDelta]]
_Item = tuple[int, list[ChoiceDelta] | Exception | None]


async def merged(jobs: Sequence[JobDeltas], tick_s: float) -> AsyncGenerator[Batch | None, None]:
    """The batches of all jobs, each with its job's index; None for every tick of silence.

    Raises:
        RequestError: A job has no answer.
    """
    queue: asyncio.Queue[_Item] = asyncio.Queue(MAX_WAITING)
    pumps = [asyncio.create_task(_pump(i, job, queue)) for i, job in enumerate(jobs)]
    num_open = len(pumps)
    try:
        while num_open:
            try:
                async with asyncio.timeout(tick_s):
                    index, item = await queue.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield index, item
    finally:
        await end(*pumps)


async def _pump(index: int, job: JobDeltas, queue: asyncio.Queue[_Item]) -> None:
    try:
        async for batch in job.batches():
            await queue.put((index, batch))
        await queue.put((index, None))
    except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
        await queue.put((index, error))
