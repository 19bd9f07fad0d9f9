"""An accepted call's answer: whole, or as server-sent events.

Nothing of a stream is sent before the first token, or before a quarter of a minute has passed with
a worker there: until then, what goes wrong has an HTTP status. Afterwards it is the last event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.types import Scope

from api.deltas import ChoiceDelta, JobDeltas
from api.error_handlers import internal_error, openai_body
from api.failures import failure_of
from api.gateway import Gateway
from api.job_views import routing_of
from api.merging import merged
from api.openai.answer import Answer, Head, fingerprint_of
from api.openai.calls import Call
from api.sse import HEARTBEAT, HEARTBEAT_S, frame
from api.submission import Accepted
from api.waiting import CHECK_S, check_workers, may_begin, wait_for_ends
from common.errors import InternalError, ModelNotFoundError, RequestError
from common.schemas import JobRecord

DONE = b"data: [DONE]\n\n"

_log = logging.getLogger(__name__)


class Serving:
    """One client's wait for what it has asked for.

    Args:
        scope: The request, for its id in errors.
        key_id: Who asks.
        is_keyed: With an idempotency key.
    """

    def __init__(
        self,
        gateway: Gateway,
        scope: Scope,
        call: Call,
        accepted: Accepted,
        key_id: str,
        *,
        is_keyed: bool,
    ) -> None:
        self._gateway = gateway
        self._scope = scope
        self._call = call
        self._answer_id = call.id_prefix + accepted.group_id
        self._job_ids = [job.job_id for job in accepted.jobs]
        self._model = accepted.model or _model_of(gateway, call)
        self._visit = gateway.attendance.of(self._job_ids, key_id, is_keyed=is_keyed)
        self._has_begun = False
        self._routing: dict[str, Any] = {}

    async def whole(self) -> dict[str, Any]:
        """The answer's body.

        Raises:
            RequestError: There is none.
        """
        with self._visit as visit:
            records = await self._ended_records()
            visit.is_over = True
        for record in records:
            if failure := failure_of(record, self._call.job.params):
                raise failure
        return (await self._answer(records)).whole(records)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The answer's events.

        Raises:
            RequestError: There is no answer, and no event was sent yet.
        """
        with self._visit as visit:
            try:
                async with aclosing(self._answer_frames()) as frames:
                    async for body in frames:
                        self._has_begun = True
                        yield body
                visit.is_over = True
            except Exception as error:
                if not self._has_begun:
                    raise
                yield self._error_frame(error)

    async def _ended_records(self) -> list[JobRecord]:
        return await wait_for_ends(
            self._gateway.jobs,
            self._gateway.watcher,
            self._gateway.poller,
            self._job_ids,
            model=self._model,
            limit_s=self._gateway.settings.wait_limit_s,
        )

    async def _answer_frames(self) -> AsyncGenerator[bytes, None]:
        records = [await self._find(job_id) for job_id in self._job_ids]
        self._routing = routing_of(records[0])
        params = self._call.job.params
        jobs = [
            JobDeltas(self._gateway.jobs, self._gateway.watcher, each, params) for each in records
        ]
        answer: Answer | None = None
        sent_s = time.monotonic()
        async with aclosing(merged(jobs, CHECK_S)) as batches:
            async for batch in batches:
                if batch is None:
                    check_workers(self._gateway.poller, self._model)
                    if time.monotonic() - sent_s < HEARTBEAT_S or not self._may_begin:
                        continue
                    yield HEARTBEAT
                else:
                    if answer is None:
                        answer = await self._answer(records)
                        for chunk in answer.opening():
                            yield self._frame(chunk)
                    for body in self._delta_frames(answer, *batch):
                        yield body
                sent_s = time.monotonic()
        if self._tells_usage:
            assert answer is not None  # each job's last batch tells its finish reasons
            yield frame(answer.closing([job.record for job in jobs]))
        yield DONE

    @property
    def _may_begin(self) -> bool:
        """Whether to have the client wait on; without a worker it may still be sent away."""
        return self._has_begun or may_begin(self._gateway.poller, self._model)

    @property
    def _tells_usage(self) -> bool:
        return self._call.body.tells_usage

    def _delta_frames(
        self, answer: Answer, job: int, deltas: Sequence[ChoiceDelta]
    ) -> Iterator[bytes]:
        for delta in deltas:
            choice = job * self._call.job.sampling.n + delta.choice
            for chunk in answer.chunks(replace(delta, choice=choice)):
                yield self._frame(chunk)

    def _frame(self, chunk: dict[str, Any]) -> bytes:
        """The routing goes with the usage; where that is not told, with the finish reason."""
        if self._tells_usage:
            return frame({**chunk, "usage": None})
        is_last = any(choice["finish_reason"] for choice in chunk["choices"])
        return frame({**chunk, **self._routing} if is_last else chunk)

    def _error_frame(self, error: Exception) -> bytes:
        if not isinstance(error, RequestError):
            _log.exception("unforeseen error in a stream")
            error = internal_error()
        return frame(openai_body(error, self._scope))

    async def _find(self, job_id: str) -> JobRecord:
        record = await self._gateway.jobs.find(job_id)
        if record is None:
            raise InternalError("The answer was dropped before it could be read.")
        return record

    async def _answer(self, records: Sequence[JobRecord]) -> Answer:
        card = await self._gateway.poller.card(records[0].model)
        created_s = min(record.created_ms for record in records) // 1000
        head = Head(self._answer_id, created_s, records[0].model, fingerprint_of(card))
        return await self._call.answer(head, card, self._gateway.tokenizers, records)


def _model_of(gateway: Gateway, call: Call) -> str:
    """The id of the model; of a repeat it may not be configured any more."""
    try:
        return gateway.catalog.resolve(call.job.model).model
    except ModelNotFoundError:
        return str(call.job.model)
