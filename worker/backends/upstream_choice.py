"""One choice of a job, asked of servers until it has ended.

A server tells texts and no tokens, and cannot go on after a prefix. So a choice that was cut off,
here or on another worker, is asked again from its start with the same seed, and nothing is sent
while the new answer agrees with the text that is there. Where it differs, the choice restarts: what
was there is void. `docs/decisions/0022-upstreams.md` says why.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import httpx

from common.errors import (
    BatonError,
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    UpstreamError,
)
from common.events import NO_TOKEN_ID
from common.parameters import check_parameters
from common.schemas import EngineTimings, JobStatus, Prompt
from worker.backends.base import BackendEnd, BackendJob, Delta
from worker.backends.surrogates import Surrogates
from worker.backends.upstream_pool import Upstream, UpstreamPool
from worker.backends.wire import MAX_SEED, Ask, Piece, UpstreamFailure, UpstreamRefusal, Wire

FIRST_BACKOFF_S = 0.2
MOST_BACKOFF_S = 5.0
_GOLDEN = 0x9E3779B1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asking:
    """What all choices of a model share.

    Attributes:
        model: Its id here.
        name: What the servers call it.
        retry_s: Seconds for which a choice without progress is tried again.
        stall_s: Seconds of silence in the middle of an answer after which it counts as broken off.
    """

    model: str
    name: str
    wire: Wire
    pool: UpstreamPool
    client: httpx.AsyncClient
    retry_s: float
    stall_s: float


class UpstreamChoice:
    """Runs one choice.

    Args:
        put: Takes each delta.

    Attributes:
        is_cancelled: It is being cancelled, or was.
    """

    def __init__(self, job: BackendJob, asking: Asking, put: Callable[[Delta], None]) -> None:
        self._job = job
        self._asking = asking
        self._put = put
        self._text = "".join(job.committed_texts)
        self._position = len(job.committed_ids)
        self._farthest = len(self._text)
        self._agreed = 0
        self._base_s = job.used_s
        self._began_s: float | None = None
        self._first_s: float | None = None
        self._failing_since_s: float | None = None
        self._num_failures = 0
        self.is_cancelled = False

    async def run(self) -> None:
        """Ask until there is an end, and put it out."""
        try:
            end = await self._end()
        except Exception as error:
            # A bug here, or in how an answer is read, is one job's and not the worker's.
            log.exception("A choice could not be run")
            end = _failed(EngineError(f"The request failed: {type(error).__name__}."))
        self._put_end(end)

    def put_cancelled(self) -> None:
        """Put out that it was cancelled; `run` has been broken off."""
        self._put_end(BackendEnd(JobStatus.CANCELLED, "cancelled"))

    async def _end(self) -> BackendEnd:
        avoid: Upstream | None = None
        while True:
            try:
                upstream = await self._next(avoid)
                return await self._attempt(upstream)
            except UpstreamRefusal as refusal:
                kind = ContextLengthError if refusal.is_too_long else InvalidRequestError
                return _failed(kind(f"The server that runs the model refuses: {refusal.message}"))
            except InvalidRequestError as error:
                return _failed(error)
            except _OverTime:
                return self._over_time()
            except UpstreamFailure as failure:
                self._base_s, self._began_s = self._used_s(), None
                self._asking.pool.note_failure(upstream, failure)
                log.warning("The server %s failed a request: %s", upstream.name, failure)
                avoid = upstream
                if not await self._may_retry(upstream, failure):
                    return _failed(UpstreamError(_told(failure)))
            except _NobodyCame as nobody:
                return _failed(UpstreamError(str(nobody)))

    async def _next(self, avoid: Upstream | None) -> Upstream:
        """The server to ask now; while all are ill, wait for one.

        Raises:
            _NobodyCame: None came within what is left of the budget.
        """
        pool = self._asking.pool
        while (upstream := pool.choose(avoid)) is None:
            try:
                async with asyncio.timeout(self._budget_s()):
                    await pool.wait_until_well()
            except TimeoutError:
                raise _NobodyCame(pool.away or "The server that runs the model is away.") from None
        return upstream

    def _budget_s(self) -> float:
        """Seconds of the retry budget that are left; it begins with the first call."""
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        return max(0.0, self._failing_since_s + self._asking.retry_s - now_s)

    async def _may_retry(self, failed: Upstream, failure: UpstreamFailure) -> bool:
        """Wait before the next attempt; False where there is to be none."""
        pool, left_s = self._asking.pool, self._budget_s()
        chosen = pool.choose(failed)
        if failure.is_denied and chosen is None:
            return False  # waiting does not make a key right
        self._num_failures += 1
        # Each of them is asked once without a pause.
        num_rounds = self._num_failures - len(pool.upstreams)
        backoff_s = min(FIRST_BACKOFF_S * 2**num_rounds, MOST_BACKOFF_S) if num_rounds >= 0 else 0.0
        rest_s = 0.0 if chosen is None else pool.rest_s(chosen)
        pause_s = max(random.uniform(backoff_s / 2, backoff_s), rest_s)
        if pause_s >= left_s:
            return False
        await asyncio.sleep(pause_s)
        return True

    async def _attempt(self, upstream: Upstream) -> BackendEnd:
        """Ask one server.

        Raises:
            UpstreamRefusal: The request is at fault.
            UpstreamFailure: The server is, or the answer broke off.
            InvalidRequestError: This server cannot honour what is asked for.
            _OverTime: The job's time is over.
        """
        ask = self._ask(upstream)
        self._base_s, self._began_s = self._used_s(), time.monotonic()
        self._agreed, self._first_s = 0, None
        surrogates, last = Surrogates(), Piece()
        stream = self._asking.wire.stream(self._asking.client, upstream.base_url, ask)
        with self._asking.pool.asking(upstream):
            async with aclosing(stream), aclosing(self._timed(upstream, stream)) as pieces:
                async for piece in pieces:
                    self._take(surrogates.join(piece.text))
                    last = _joined(last, piece)
        self._take(surrogates.rest())
        if last.finish_reason is None:
            raise UpstreamFailure("its answer broke off")
        if self._agreed < len(self._text):  # it ended earlier than what it is to go on with
            self._begin_again("")
        return self._completed(last)

    def _ask(self, upstream: Upstream) -> Ask:
        job, asking = self._job, self._asking
        dialect = "" if upstream.served is None else upstream.served.dialect
        prompt = job.prompt or Prompt(text="")
        check_parameters(asking.model, asking.wire.parameters(dialect), job.sampling, [prompt])
        return Ask(asking.name, prompt, job.sampling, _seed(job.sampling.seed, job.choice), dialect)

    async def _timed(
        self, upstream: Upstream, stream: AsyncGenerator[Piece]
    ) -> AsyncGenerator[Piece]:
        """The pieces of an answer, until the job's time is over or the server falls silent."""
        while True:
            coming = asyncio.create_task(_next_of(stream))
            try:
                await self._wait_for(coming, upstream)
            finally:
                coming.cancel()
                await asyncio.wait([coming])
            piece = coming.result()
            if piece is None:
                return
            if self._first_s is None and piece.text:
                self._first_s = time.monotonic()
            yield piece

    async def _wait_for(self, coming: asyncio.Task[Piece | None], upstream: Upstream) -> None:
        """Wait for a piece.

        Raises:
            UpstreamFailure: The server fell silent.
            _OverTime: The job's time is over.
        """
        assert self._began_s is not None
        over_s = self._began_s + self._job.sampling.time_limit_s
        while True:
            left_s = over_s - time.monotonic()
            done, _ = await asyncio.wait([coming], timeout=min(left_s, self._asking.stall_s))
            if done:
                return
            if left_s <= self._asking.stall_s:
                raise _OverTime
            # Before its first text a server that is well may have others to serve.
            if self._first_s is not None or upstream.problem is not None:
                raise UpstreamFailure("it fell silent", is_away=True)

    def _take(self, text: str) -> None:
        """Put out what is new of the text; what is there already must be the same."""
        there = self._text[self._agreed : self._agreed + len(text)]
        if not text.startswith(there):
            self._begin_again(text)
            return
        self._agreed += len(there)
        if len(text) > len(there):
            self._go_on(text[len(there) :], restarts=False)

    def _begin_again(self, text: str) -> None:
        """The answer is another one this time: all of it is new, and its time alone counts."""
        log.warning("Asked again, the server gives another answer: starting from nothing")
        whole = self._text[: self._agreed] + text
        self._text, self._position, self._base_s, self._agreed = "", 0, 0.0, 0
        self._go_on(whole, restarts=True)

    def _go_on(self, text: str, *, restarts: bool) -> None:
        pieces = (text,) if text else ()
        ids = (NO_TOKEN_ID,) * len(pieces)
        self._put(
            Delta(
                run_id=self._job.run_id,
                position=self._position,
                token_ids=ids,
                texts=pieces,
                used_s=self._used_s(),
                choice=self._job.choice,
                restarts=restarts,
            )
        )
        self._text += text
        self._agreed = len(self._text)
        self._position += len(pieces)
        if len(self._text) > self._farthest:
            # Only more than there ever was: a server that differs each time gets nowhere.
            self._farthest = len(self._text)
            self._failing_since_s, self._num_failures = None, 0

    def _used_s(self) -> float:
        """Seconds of execution: reading again what is there takes none, unless it takes longer."""
        if self._began_s is None:
            return self._base_s
        return max(self._base_s, time.monotonic() - self._began_s)

    def _over_time(self) -> BackendEnd:
        limit_s = self._job.sampling.time_limit_s
        return BackendEnd(
            JobStatus.EXPIRED,
            "timeout",
            timings=self._timings(Piece()),
            error_type=DeadlineExceededError.__name__,
            error_message=f"The job is over its time limit: {limit_s:g} seconds.",
        )

    def _completed(self, last: Piece) -> BackendEnd:
        assert last.finish_reason is not None
        return BackendEnd(
            JobStatus.COMPLETED,
            last.finish_reason,
            timings=self._timings(last),
            usage=last.usage,
        )

    def _timings(self, last: Piece) -> EngineTimings:
        """As the server measured, where it did; else as it was felt here."""
        now_s = time.monotonic()
        began_s = now_s if self._began_s is None else self._began_s
        first_s = now_s if self._first_s is None else self._first_s
        told = last.durations
        prefill_s = None if told is None else told.prefill_s
        decode_s = None if told is None else told.decode_s
        return EngineTimings(
            prefill_s=round(first_s - began_s if prefill_s is None else prefill_s, 6),
            decode_s=round(now_s - first_s if decode_s is None else decode_s, 6),
            cached_tokens=last.cached_tokens,
        )

    def _put_end(self, end: BackendEnd) -> None:
        job, used_s = self._job, self._used_s()
        self._put(Delta(job.run_id, self._position, (), (), used_s, end, choice=job.choice))


class _OverTime(Exception):
    """The job's time is over."""


class _NobodyCame(Exception):
    """No server was well within the budget; the message is for the client."""


async def _next_of(stream: AsyncGenerator[Piece]) -> Piece | None:
    return await anext(stream, None)


def _joined(last: Piece, piece: Piece) -> Piece:
    """What is known of the end, by all pieces so far."""
    return Piece(
        finish_reason=piece.finish_reason or last.finish_reason,
        usage=piece.usage or last.usage,
        cached_tokens=piece.cached_tokens or last.cached_tokens,
        durations=piece.durations or last.durations,
    )


def _seed(seed: int, choice: int) -> int:
    """The same for every attempt, another one for each choice; that of choice 0 is the job's."""
    return (seed + choice * _GOLDEN) % (MAX_SEED + 1)


def _told(failure: UpstreamFailure) -> str:
    return f"The server that runs the model failed the request: {failure.message}."


def _failed(error: BatonError) -> BackendEnd:
    return BackendEnd(
        JobStatus.FAILED,
        "error",
        error_type=type(error).__name__,
        error_message=error.message,
    )
