"""Watching a task's text while it is generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response

from api.answers import errors
from api.dependencies import GatewayDep, StreamRecord
from api.job_stream import JobStream, end_frame
from api.routes.tasks import place_in_line
from api.sse import RETRY, EventStream
from api.stream_answers import TaskEvent, event_stream
from api.validation_message import shown
from common.errors import InvalidRequestError

MAX_EID_DIGITS = 15

_EID = {"pattern": f"^[0-9]{{0,{MAX_EID_DIGITS}}}$"}
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="The id of the last event that you have.",
        json_schema_extra=_EID,
    ),
]
StartingAfter = Annotated[
    str | None,
    Query(
        description="The id of the last event that you have, for clients that cannot send "
        "headers; `Last-Event-ID` counts before it.",
        json_schema_extra=_EID,
    ),
]


router = APIRouter(tags=["Tasks"])


@router.get(
    "/stream/{task_id}",
    operation_id="watch_task",
    response_class=EventStream,
    summary="Watch a task (server-sent events)",
    responses={
        200: {"content": event_stream(TaskEvent)},
        204: {"description": "You have the last event already; EventSource stops."},
        **errors(400, 401, 404, 410, 429, 503),
    },
)
async def stream(
    gateway: GatewayDep,
    record: StreamRecord,
    last_event_id: LastEventId = None,
    starting_after: StartingAfter = None,
) -> Response:
    """Every event's `data` is JSON: `status`, `message`, `token`, `progress`.

    The `token`s put together are the result. The last event's `status` is `completed`, with
    `result` and `metrics` (or `failed`, `cancelled`, `expired`). A dropped connection is resumed
    with `Last-Event-ID`, as EventSource does by itself: no token is lost or repeated. An event with
    `snapshot: true` holds the whole text so far, in place of what came before it.
    """
    has = _cursor(last_event_id, starting_after)
    if record.status.is_final and has == record.last_eid:
        return Response(status_code=204)
    if record.status.is_final and has > record.last_eid:
        return EventStream(_one(end_frame(record)))
    is_from_elsewhere = has > record.last_eid
    frames = JobStream(
        gateway.jobs,
        gateway.watcher,
        record,
        0 if is_from_elsewhere else has,
        queue_position=await place_in_line(gateway, record),
        is_replacing=is_from_elsewhere,
    )
    return EventStream(frames.frames())


async def _one(frame: bytes) -> AsyncGenerator[bytes, None]:
    yield RETRY
    yield frame


def _cursor(header: str | None, query: str | None) -> int:
    """The last event that the client has.

    A page that reconnects sends both: its address as it was, and in the header what came since.
    """
    in_header, in_query = _eid("Last-Event-ID", header), _eid("starting_after", query)
    return (in_query if in_header is None else in_header) or 0


def _eid(name: str, text: str | None) -> int | None:
    """The number in a parameter; EventSource sends an empty header for none."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_EID_DIGITS):
        raise InvalidRequestError(
            f"{name} must be an event id, a whole number from 0; got {shown(text)}.", param=name
        )
    return int(text)
