"""How often a key may read and an address may fail to authenticate, within this gateway.

Counted in memory by slowapi: it is synchronous, so it never talks to Redis on the event loop. How
often a key may submit is decided in the submit script, exactly and for all gateways together; the
same coarse limit as for reads stands before it, so that a flood does not reach Redis at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import Request
from limits import parse_many
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.types import Scope

from common.errors import RateLimitError
from common.job_store import RATE_EXCEEDED, Submitted
from common.settings import Settings

Count = Callable[[Request], Awaitable[None]]

READS_PER_SUBMISSION = 10


@dataclass(frozen=True, slots=True)
class RateState:
    """What is left of a rate: requests that may come at once, and when all of them may again."""

    limit: int
    remaining: int
    reset_s: float


class Limits:
    """The limits of one gateway."""

    def __init__(self, settings: Settings) -> None:
        per_minute, burst = settings.rate_limit_per_minute, settings.rate_limit_burst
        factor = READS_PER_SUBMISSION
        self._limiter = Limiter(key_func=_key_id, storage_uri="memory://")
        self._burst = burst
        self._interval_s = 60 / per_minute
        coarse = f"{factor * per_minute}/minute;{factor * burst}/second"
        self._reads = self._limited(coarse, _read)
        self._submissions = self._limited(coarse, _submission)
        self._failures = self._limited(f"{per_minute}/minute", _failure, get_remote_address)

    async def count_read(self, request: Request) -> None:
        """Count a read of an authenticated key: ten times as many as submissions.

        Raises:
            RateLimitError: There were too many.
        """
        await self._count(self._reads, request)

    async def count_submission(self, request: Request) -> None:
        """Count an attempt to submit, whatever comes of it; a flood of them stops here.

        Raises:
            RateLimitError: There were too many.
        """
        await self._count(self._submissions, request)

    async def count_failure(self, request: Request) -> None:
        """Count a failed authentication against the address that it came from.

        A valid key is never refused for its address: behind one address there may be many
        clients, and one of them must not lock the others out.

        Raises:
            RateLimitError: There were too many.
        """
        await self._count(self._failures, request)

    def submitted(self, answer: Submitted) -> RateState:
        """The state of a key's rate after a submission."""
        return RateState(self._burst, answer.rate_remaining, answer.rate_reset_s)

    def refused(self, error: RateLimitError) -> RateState:
        """The state of a key's rate where the submit script refused it.

        The wait is that for one more; the whole burst is back after the others' intervals too.
        """
        wait_s = error.retry_after_s or 0.0
        return RateState(self._burst, 0, wait_s + (self._burst - 1) * self._interval_s)

    def _limited(
        self, rate: str, count: Count, key_func: Callable[..., str] | None = None
    ) -> Count:
        parse_many(rate)  # slowapi would only log that it cannot read it
        limited: Count = self._limiter.shared_limit(rate, scope=count.__name__, key_func=key_func)(
            count
        )
        return limited

    async def _count(self, count: Count, request: Request) -> None:
        try:
            await count(request)
        except RateLimitExceeded:
            request.state.rate = self._window(request)
            raise RateLimitError(RATE_EXCEEDED, retry_after_s=request.state.rate.reset_s) from None

    def _window(self, request: Request) -> RateState:
        item, names = request.state.view_rate_limit
        reset_at, remaining = self._limiter.limiter.get_window_stats(item, *names)
        return RateState(item.amount, remaining, max(0.0, reset_at - time.time()))


def rate_headers(scope: Scope) -> Mapping[str, str]:
    """The `x-ratelimit-*` headers, as OpenAI names them, where the request has a rate."""
    rate: RateState | None = scope["state"].get("rate")
    if rate is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(rate.limit),
        "x-ratelimit-remaining-requests": str(rate.remaining),
        "x-ratelimit-reset-requests": go_duration(rate.reset_s),
    }


def go_duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `120ms`, `1s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    text = f"{whole % 60}s"
    if whole >= 60:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _key_id(request: Request) -> str:
    return str(request.state.key_id)


# What slowapi's decorator is put on: there is nothing to do but to count.
async def _read(request: Request) -> None: ...


async def _submission(request: Request) -> None: ...


async def _failure(request: Request) -> None: ...
