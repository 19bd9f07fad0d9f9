"""The clients of one job: who submits it, watches it, polls it, cancels it. None of them gives up.

They behave as real ones do: a refused or broken request is repeated, on another gateway, after the
time that the server names; a submission is repeated under the same idempotency key; a watcher
resumes with the last event id that it has, as a browser does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.comparison import Outcome
from tests.chaos.jobs import ChaosJob, WatcherPlan
from tests.chaos.stream import DEFAULT_RETRY_S, Frame, SseParser, StreamText

# A gateway answers 503 itself when Redis is away; this is for one that hangs.
TIMEOUT = httpx.Timeout(20.0, connect=3.0)
RETRY_S = 0.5
LONGEST_RETRY_S = 2.0
# With these a client tries again.
AGAIN = (409, 429, 500, 502, 503, 504)
NUM_HANG_UPS = 5
NOT_FOUND_REPEATS = 5


class Progress:
    """When the run last came on."""

    def __init__(self) -> None:
        self._last_at = time.monotonic()

    def note(self) -> None:
        """It did."""
        self._last_at = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """Seconds since it last did."""
        return time.monotonic() - self._last_at


@dataclass
class Followed:
    """What a job's clients have seen; filled while they run.

    Attributes:
        task_id: None until the job is accepted.
        outcome: None until a poller was told the end; read from `result`, its words.
        streams: One for each of the job's watchers.
        num_resumes: Connections that a watcher had to make again.
        errors: Answers that no fault excuses, such as 500.
        notes: What was odd, in words; none of it counts as a loss by itself.
    """

    job: ChaosJob
    task_id: str | None = None
    outcome: Outcome | None = None
    result: dict[str, Any] | None = None
    streams: list[StreamText] = field(default_factory=list)
    num_resumes: int = 0
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Clients:
    """The clients of all jobs of a phase.

    Args:
        urls: Of the gateways; any may be down.
        http: Shared by all.
        phase: Keeps the idempotency keys of two phases apart; goes into the jobs' metadata.
        progress: Told of all that comes on.
        now_s: Seconds of the run.
    """

    def __init__(
        self,
        urls: Sequence[str],
        http: httpx.AsyncClient,
        phase: str,
        progress: Progress,
        now_s: Callable[[], float],
    ) -> None:
        self._urls = urls
        self._http = http
        self._phase = phase
        self._progress = progress
        self._now_s = now_s

    async def follow(self, followed: Followed) -> None:
        """Submit a job and stay with it until its end, with all its watchers."""
        await self._submit(followed)
        job = followed.job
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(followed))
            for plan in job.watchers:
                stream = StreamText()
                followed.streams.append(stream)
                group.create_task(self._watch(followed, plan, stream))
            if job.cancel_after_s is not None:
                group.create_task(self._cancel(followed, job.cancel_after_s))

    async def _submit(self, followed: Followed) -> None:
        job = followed.job
        headers = {"Idempotency-Key": f"{self._phase}-{job.number}"}
        metadata = {"phase": self._phase, "number": str(job.number)}
        response = await self._ask(
            followed, "POST", "/generate", headers, {**job.body, "metadata": metadata}
        )
        if response.status_code != 202:
            raise AssertionError(f"submission refused: {response.status_code} {response.text}")
        followed.task_id = response.json()["task_id"]
        self._progress.note()

    async def _poll(self, followed: Followed) -> None:
        not_found = 0
        while followed.outcome is None:
            response = await self._ask(followed, "GET", f"/result/{followed.task_id}")
            if response.status_code == 200:
                followed.result = response.json()
                followed.outcome = Outcome.of(response.json())
                self._progress.note()
            elif response.status_code == 202:
                await asyncio.sleep(_retry_after_s(response))
            else:
                not_found += 1
                if not_found > NOT_FOUND_REPEATS:
                    followed.errors.append(f"/result: {response.status_code} {response.text}")
                    return
                await asyncio.sleep(RETRY_S)

    async def _cancel(self, followed: Followed, after_s: float) -> None:
        await asyncio.sleep(after_s)
        response = await self._ask(followed, "POST", f"/tasks/{followed.task_id}/cancel")
        followed.notes.append(f"second {self._now_s():.2f}: the cancel got {response.text}")
        if response.status_code not in (200, 202):
            followed.errors.append(f"the cancel answered {response.status_code} {response.text}")

    async def _ask(
        self,
        followed: Followed,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a request until a gateway answers it with something else than "try again"."""
        while True:
            wait_s = RETRY_S
            try:
                response = await self._http.request(
                    method,
                    random.choice(self._urls) + path,
                    headers={"X-API-Key": followed.job.key, **(headers or {})},
                    json=body,
                )
            except httpx.TransportError:
                pass
            else:
                if response.status_code == 500:
                    followed.errors.append(f"{method} {path} answered 500 {response.text}")
                if response.status_code not in AGAIN:
                    return response
                wait_s = _retry_after_s(response)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))

    async def _watch(self, followed: Followed, plan: WatcherPlan, stream: StreamText) -> None:
        await asyncio.sleep(plan.joins_after_s)
        hang_ups = 0
        while stream.end is None and not stream.is_closed:
            parser = SseParser()
            hang_up_s = plan.hangs_up_after_s if hang_ups < NUM_HANG_UPS else None
            wait_s = None
            try:
                async with asyncio.timeout(hang_up_s):
                    wait_s = await self._read_stream(followed, parser, stream)
            except TimeoutError:
                hang_ups += 1
                continue
            except httpx.TransportError:
                pass
            if stream.end is None and not stream.is_closed:
                followed.num_resumes += 1
                await asyncio.sleep(wait_s or parser.retry_s or DEFAULT_RETRY_S)

    async def _read_stream(
        self, followed: Followed, parser: SseParser, stream: StreamText
    ) -> float | None:
        """Read one connection to its end; seconds to wait where the server named some."""
        headers = {"X-API-Key": followed.job.key, "Accept": "text/event-stream"}
        if stream.last_event_id:
            headers["Last-Event-ID"] = stream.last_event_id
        url = f"{random.choice(self._urls)}/stream/{followed.task_id}"
        async with self._http.stream("GET", url, headers=headers) as response:
            if response.status_code in AGAIN:
                if response.status_code == 500:
                    followed.errors.append(f"{url} answered 500")
                return _retry_after_s(response)
            if response.status_code != 200:
                stream.faults.append(f"the stream answered {response.status_code}")
                stream.is_closed = True
                return None
            async for chunk in response.aiter_raw():
                for frame in parser.feed(chunk):
                    self._take(stream, frame)
        return None

    def _take(self, stream: StreamText, frame: Frame) -> None:
        before = len(stream.text)
        stream.apply(frame, self._now_s())
        if len(stream.text) > before or stream.end is not None:
            self._progress.note()


def _retry_after_s(response: httpx.Response) -> float:
    named = response.headers.get("Retry-After", "")
    return min(float(named), LONGEST_RETRY_S) if named.isdecimal() else RETRY_S
