"""A response's answer to its client: whole, or as server-sent events.

A client that waits for a response that is not in the background is treated as one that waits for a
chat: when it hangs up, the response is cancelled, and until the first token has come, what goes
wrong has an HTTP status. Whoever watches a response otherwise may go and come back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.types import Scope

from api.attendance import Visit
from api.error_handlers import internal_error, openai_body
from api.failures import failure_of
from api.gateway import Gateway
from api.openai.responses.output import Event
from api.openai.responses.reply import PARAMS, Reply
from api.openai.responses.stream import NOTHING, ResponseStream
from api.openai.responses.view import body_of
from api.sse import HEARTBEAT, HEARTBEAT_S, frame
from api.waiting import CHECK_S, check_workers, may_begin, wait_for_ends
from common.errors import RequestError, ShuttingDownError
from common.schemas import JobRecord

LIFETIME_S = 900.0
"""Of a stream that can be taken up again."""

_log = logging.getLogger(__name__)


class Waiting:
    """One client's wait for a response that is not in the background.

    Args:
        scope: The request, for its id in errors.
        is_keyed: With an idempotency key.
    """

    def __init__(
        self, gateway: Gateway, scope: Scope, record: JobRecord, reply: Reply, *, is_keyed: bool
    ) -> None:
        self._gateway = gateway
        self._scope = scope
        self._record = record
        self._reply = reply
        self._visit = gateway.attendance.of([record.job_id], record.key_id, is_keyed=is_keyed)

    async def whole(self) -> dict[str, Any]:
        """The response's body.

        Raises:
            RequestError: There is none.
        """
        with self._visit as visit:
            [record] = await wait_for_ends(
                self._gateway.jobs,
                self._gateway.watcher,
                self._gateway.poller,
                [self._record.job_id],
                model=self._record.model,
                limit_s=self._gateway.settings.wait_limit_s,
            )
            visit.is_over = True
        if failure := failure_of(record, PARAMS):
            raise failure
        return await body_of(self._gateway, record, self._reply)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The response's events.

        Raises:
            RequestError: There is no answer, and no event was sent yet.
        """
        with self._visit as visit:
            number: int | None = None
            try:
                async with aclosing(self._batches(visit)) as batches:
                    async for batch in batches:
                        if not batch:
                            yield HEARTBEAT
                        for event in batch:
                            number = event["sequence_number"]
                            yield event_frame(event)
            except Exception as error:
                if number is None:
                    raise
                yield error_frame(error, self._scope, number)

    async def _batches(self, visit: Visit) -> AsyncGenerator[list[Event], None]:
        """The events to send, the first ones with the first token; an empty batch is a heartbeat.

        After some silence they are sent all the same, so that the connection is not taken for dead.
        """
        stream = ResponseStream(self._gateway, self._record, self._reply, NOTHING, CHECK_S)
        held: list[Event] = []
        has_begun, sent_s = False, time.monotonic()
        async with aclosing(stream.batches()) as batches:
            held = await anext(batches)
            async for batch in batches:
                if not batch:
                    check_workers(self._gateway.poller, self._record.model)
                    if time.monotonic() - sent_s < HEARTBEAT_S or not self._may_begin(has_begun):
                        continue
                visit.is_over = stream.record.status.is_final
                failure = failure_of(stream.record, PARAMS) if visit.is_over else None
                if failure is not None and not has_begun:
                    raise failure
                yield [*held, *batch]
                held, has_begun, sent_s = [], True, time.monotonic()

    def _may_begin(self, has_begun: bool) -> bool:
        """Whether to have the client wait on; without a worker it may still be sent away."""
        return has_begun or may_begin(self._gateway.poller, self._record.model)


async def watching(
    gateway: Gateway, scope: Scope, record: JobRecord, reply: Reply, after: int
) -> AsyncGenerator[bytes, None]:
    """The events of a response after a number, for a client that may come and go.

    Args:
        gateway: Where.
        scope: The request, for its id in errors.
        record: The response's job.
        reply: What it keeps.
        after: The number of the last event that the client has, or `NOTHING`.
    """
    stream = ResponseStream(gateway, record, reply, after, HEARTBEAT_S)
    number, sent_s = max(after, 0), time.monotonic()
    end_s = sent_s + LIFETIME_S
    try:
        async with aclosing(stream.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    number = event["sequence_number"]
                    yield event_frame(event)
                if not batch and time.monotonic() - sent_s >= HEARTBEAT_S:
                    yield HEARTBEAT
                elif not batch:
                    continue
                sent_s = time.monotonic()
                if sent_s > end_s:
                    return
    except ShuttingDownError:
        return  # the connection ends, and the client takes the stream up at another gateway
    except Exception as error:  # noqa: BLE001 - told to the client, whose answer has begun
        yield error_frame(error, scope, number)


def event_frame(event: Event) -> bytes:
    """An event as OpenAI sends it, with its type as its name."""
    return f"event: {event['type']}\n".encode() + frame(event)


def error_frame(error: Exception, scope: Scope, number: int) -> bytes:
    """What broke a stream off: no event of the response's, so it has the number of the last one.

    Whoever goes on after this number misses nothing.
    """
    if not isinstance(error, RequestError):
        _log.error("unforeseen error in a stream", exc_info=error)
        error = internal_error()
    told = openai_body(error, scope)["error"]
    return event_frame({"type": "error", "sequence_number": number, **_shown(told)})


def _shown(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in ("code", "message", "param", "request_id")}
