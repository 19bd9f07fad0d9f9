"""The frames of `/stream/generate`: tokens and nothing else, for one client that cannot come back.

Source:
    Stream Generation in `000_dd3c37f7e9e397a0.txt`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.types import Scope

from api.deltas import JobDeltas
from api.error_handlers import internal_error, native_body
from api.gateway import Gateway
from api.job_views import routing_of
from api.merging import merged
from api.sse import HEARTBEAT, HEARTBEAT_S, frame
from api.waiting import CHECK_S, check_workers
from common.errors import InternalError, RequestError

_log = logging.getLogger(__name__)


class TokenStream:
    """One client's stream of one job, which is cancelled when the client hangs up.

    Args:
        scope: The request, for its id in errors.
        key_id: Who asks.
        is_keyed: With an idempotency key: the job waits a while for its client to come back.
    """

    def __init__(
        self, gateway: Gateway, scope: Scope, job_id: str, key_id: str, *, is_keyed: bool
    ) -> None:
        self._gateway = gateway
        self._scope = scope
        self._job_id = job_id
        self._routing: dict[str, Any] = {}
        self._visit = gateway.attendance.of([job_id], key_id, is_keyed=is_keyed)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """All frames; what goes wrong after the first one is told in the last.

        Raises:
            RequestError: There is no answer, and no frame was sent yet.
        """
        has_begun = False
        with self._visit as visit:
            try:
                async with aclosing(self._token_frames()) as frames:
                    async for body in frames:
                        has_begun = True
                        yield body
                visit.is_over = True
            except Exception as error:
                if not has_begun:
                    raise
                yield self._error_frame(error)

    async def _token_frames(self) -> AsyncGenerator[bytes, None]:
        record = await self._gateway.jobs.find(self._job_id)
        if record is None:
            raise InternalError("The answer was dropped before it could be read.")
        self._routing = routing_of(record)
        job = JobDeltas(self._gateway.jobs, self._gateway.watcher, record, {})
        sent_s = time.monotonic()
        async with aclosing(merged([job], CHECK_S)) as batches:
            async for batch in batches:
                if batch is None:
                    check_workers(self._gateway.poller, record.model)
                    if time.monotonic() - sent_s >= HEARTBEAT_S:
                        sent_s = time.monotonic()
                        yield HEARTBEAT
                    continue
                sent_s = time.monotonic()
                for delta in batch[1]:
                    if delta.text:
                        yield frame({"token": delta.text})
        yield frame({"done": True, **self._routing})

    def _error_frame(self, error: Exception) -> bytes:
        if not isinstance(error, RequestError):
            _log.exception("unforeseen error in a stream")
            error = internal_error()
        return frame({**native_body(error, self._scope), "done": True, **self._routing})
