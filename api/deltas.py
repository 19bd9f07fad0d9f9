"""What a job's choices gain, batch by batch, to the job's end.

Where a watch is cut because its client reads slowly, it is opened again after the last event that
was taken: its client cannot resume what is streamed of it. A worker's death is not seen here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from api.failures import failure_of
from api.watch import HistoryGone, Update, WatchClosed
from api.watcher import Watcher
from common.errors import (
    InternalError,
    RedisUnavailableError,
    RestartedError,
    ShuttingDownError,
)
from common.events import EndEvent, RestartEvent, StreamEvent, TokenEvent
from common.job_store import Submissions
from common.schemas import JobRecord
from common.token_logprobs import TokenLogprobs

TAKE_S = 15.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What a choice has gained.

    Attributes:
        finish_reason: Where this is the last of it.
    """

    choice: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None


@dataclass(slots=True)
class _Sent:
    """How much of a choice has been sent, and what is about to be."""

    num_chars: int = 0
    num_tokens: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def add(self, event: TokenEvent) -> None:
        self.text += "".join(event.texts)
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs

    def take(self, choice: int) -> ChoiceDelta:
        delta = ChoiceDelta(choice, self.text, tuple(self.token_ids), tuple(self.logprobs))
        self.num_chars += len(self.text)
        self.num_tokens += len(self.token_ids)
        self.text, self.token_ids, self.logprobs = "", [], []
        return delta


class JobDeltas:
    """One job's deltas.

    Args:
        record: The job as it stands; afterwards, as it has ended.
        params: The route's own names of fields, as in a `JobRequest`.
    """

    def __init__(
        self,
        jobs: Submissions,
        watcher: Watcher,
        record: JobRecord,
        params: Mapping[str, str],
    ) -> None:
        self.record = record
        self._params = params
        self._jobs = jobs
        self._watcher = watcher
        self._taken_eid = 0
        self._sent = [_Sent() for _ in range(record.sampling.n)]

    async def batches(self) -> AsyncGenerator[list[ChoiceDelta], None]:
        """All deltas; the last one of each choice has its finish reason.

        Raises:
            RestartedError: The job began again from nothing, after something had been sent.
            ShuttingDownError: The gateway stops.
            RequestError: The job has no answer.
        """
        async with aclosing(self._updates()) as pages:
            async for updates in pages:
                deltas = list(self._deltas_of(updates))
                if deltas:
                    yield deltas
        self.record = await ended_record(self._jobs, self.record.job_id)
        failure = failure_of(self.record, self._params)
        if failure is not None:
            raise failure
        yield [self._last_of(choice) for choice in range(len(self._sent))]

    async def _updates(self) -> AsyncGenerator[Sequence[Update], None]:
        """Every update but the end."""
        while True:
            try:
                async with self._watcher.watch(self.record, self._taken_eid) as watch:
                    while True:
                        updates = await watch.take(TAKE_S)
                        if updates and _is_end(updates[-1]):
                            yield updates[:-1]
                            return
                        yield updates
            except WatchClosed:
                if self._watcher.is_closed:
                    raise shutting_down() from None
            except HistoryGone:
                return

    def _deltas_of(self, updates: Sequence[Update]) -> Iterator[ChoiceDelta]:
        for update in updates:
            if not isinstance(update, StreamEvent):
                continue
            self._taken_eid = update.eid
            if isinstance(update.event, RestartEvent):
                self._restart()
            elif isinstance(update.event, TokenEvent):
                self._sent[update.event.choice].add(update.event)
        for choice, sent in enumerate(self._sent):
            # Tokens whose text is held back go with the next ones.
            if sent.text or sent.logprobs:
                yield sent.take(choice)

    def _restart(self) -> None:
        if any(sent.num_tokens for sent in self._sent):
            raise RestartedError(
                "The answer had to begin again from nothing, and what was sent cannot be taken "
                "back; repeat the request."
            )
        self._sent = [_Sent() for _ in self._sent]

    def _last_of(self, choice: int) -> ChoiceDelta:
        """What the ended record has beyond what was sent."""
        result, sent = self.record.choices[choice], self._sent[choice]
        return ChoiceDelta(
            choice,
            result.text[sent.num_chars :],
            result.token_ids[sent.num_tokens :],
            result.logprobs[sent.num_tokens :],
            result.finish_reason,
        )


async def ended_record(jobs: Submissions, job_id: str) -> JobRecord:
    """The record of a job that has ended; waits while Redis is away.

    Raises:
        InternalError: There is no such job any more.
    """
    while True:
        try:
            record = await jobs.find(job_id)
        except RedisUnavailableError:
            await asyncio.sleep(RETRY_S)
            continue
        if record is None or not record.status.is_final:
            raise InternalError("The answer was dropped before it could be read.")
        return record


def shutting_down() -> ShuttingDownError:
    """What a client is told whose gateway stops."""
    return ShuttingDownError("The server stops; repeat the request.", retry_after_s=1.0)


def _is_end(update: Update) -> bool:
    return isinstance(update, StreamEvent) and isinstance(update.event, EndEvent)
