"""OpenAI's responses: asked for, waited for or not, watched, taken up again, called off."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from api.answering import answered
from api.dependencies import GatewayDep, ReaderId, SubmitterId
from api.gateway import Gateway
from api.idempotency import IdempotencyKey, IdempotencyKeyHeader
from api.json_route import JsonRoute
from api.openai.answers import OpenAIError, errors
from api.openai.responses.answers import DeletedResponse, InputItems, ResponseAnswer
from api.openai.responses.asking import job_of
from api.openai.responses.conversation import listed, with_ids
from api.openai.responses.lookup import find_response
from api.openai.responses.reply import Reply
from api.openai.responses.request import ResponseRequest
from api.openai.responses.serving import Waiting, watching
from api.openai.responses.stream import NOTHING
from api.openai.responses.view import body_of
from api.routed import MODEL_HEADER
from api.sse import EventStream
from api.stream_answers import ResponseEvent, event_stream
from api.submission import Accepted
from api.submitting import headers_of, note_accepted, note_routed, submitted
from common.errors import InternalError, InvalidRequestError
from common.schemas import JobRecord

MAX_NUMBER = 2**53
CANCEL_WAIT_S = 5.0
"""For a worker to stop; it does at its next step."""
_STREAMED = {"content": event_stream(ResponseEvent, OpenAIError)}

router = APIRouter(prefix="/v1/responses", tags=["OpenAI"], route_class=JsonRoute)


@router.post(
    "",
    operation_id="create_response",
    response_model=ResponseAnswer,
    summary="Answer an input, now or in the background",
    responses={
        200: {**_STREAMED, "headers": MODEL_HEADER},
        **errors(400, 401, 404, 409, 410, 413, 422, 429, 500, 502, 503, 504),
    },
)
async def create(
    request: Request,
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: ResponseRequest,
) -> Response:
    """As OpenAI's: waits for the answer, or streams it with `stream: true`.

    A client that hangs up cancels its request, unless it has an `Idempotency-Key`: then it may come
    back within half a minute. With `background: true` the answer comes at once, `queued`, and
    nobody needs to wait: poll `GET /v1/responses/{id}`, or watch it with `?stream=true`, from any
    event on.
    """
    accepted = await _accepted(request, gateway, key_id, idempotency_key, body)
    record = await gateway.jobs.find(accepted.group_id)
    if record is None or record.reply is None:
        raise InternalError("The answer was dropped before it could be read.")
    reply, headers = Reply.unpack(record.reply), headers_of(request, accepted)
    if not reply.is_background:
        is_keyed = idempotency_key is not None
        waiting = Waiting(gateway, request.scope, record, reply, is_keyed=is_keyed)
        return await answered(request, waiting, headers, streams=bool(body.stream))
    if body.stream:
        frames = watching(gateway, request.scope, record, reply, NOTHING)
        return EventStream(frames, headers=headers)
    return JSONResponse(await body_of(gateway, record, reply), headers=headers)


async def _accepted(
    request: Request,
    gateway: Gateway,
    key_id: str,
    idempotency_key: IdempotencyKey | None,
    body: ResponseRequest,
) -> Accepted:
    idempotency = None if idempotency_key is None else idempotency_key.of(body)
    try:
        job = await job_of(body, gateway, key_id)
    except InvalidRequestError:
        # The earlier response may be gone by now: that is no reason to refuse a repeat.
        earlier = None
        if idempotency is not None:
            earlier = await gateway.submitter.replayed(key_id, idempotency)
        if earlier is None:
            raise
        note_accepted(request, gateway, earlier)
        if body.router is not None:
            await note_routed(request, gateway, earlier)
        return earlier
    return await submitted(request, gateway, key_id, idempotency, job)


ResponseId = Annotated[str, Path(description="As the request gave it.")]


async def _response(
    gateway: GatewayDep, key_id: ReaderId, response_id: ResponseId
) -> tuple[JobRecord, Reply]:
    return await find_response(gateway, response_id, key_id)


Found = Annotated[tuple[JobRecord, Reply], Depends(_response)]


@router.get(
    "/{response_id}",
    operation_id="get_response",
    response_model=ResponseAnswer,
    summary="A response as it stands, or its events",
    responses={200: _STREAMED, **errors(400, 401, 404, 429, 503)},
)
async def retrieve(
    request: Request,
    gateway: GatewayDep,
    found: Found,
    stream: Annotated[bool, Query(description="Send its events, also of one that has ended.")] = (
        False
    ),
    starting_after: Annotated[
        int | None,
        Query(ge=0, le=MAX_NUMBER, description="The `sequence_number` of the last one you have."),
    ] = None,
) -> Response:
    """`status`: `queued`, `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`."""
    if not stream:
        return JSONResponse(await body_of(gateway, *found))
    after = NOTHING if starting_after is None else starting_after
    return EventStream(watching(gateway, request.scope, *found, after))


@router.post(
    "/{response_id}/cancel",
    operation_id="cancel_response",
    response_model=ResponseAnswer,
    summary="Call a background response off",
    responses=errors(400, 401, 404, 429, 503),
)
async def cancel(gateway: GatewayDep, found: Found) -> JSONResponse:
    """One that has ended stays as it is: asking twice does no harm."""
    record, reply = found
    if not reply.is_background:
        raise InvalidRequestError(
            "Only a background response can be cancelled; to cancel another one, hang up.",
            param="response_id",
        )
    status = await gateway.canceller.cancel(record.job_id, record.key_id)
    if not status.is_final:
        await gateway.watcher.wait_for_end(record.job_id, CANCEL_WAIT_S)
    record = await gateway.jobs.get(record.job_id, record.key_id)
    return JSONResponse(await body_of(gateway, record, reply))


@router.delete(
    "/{response_id}",
    operation_id="delete_response",
    response_model=DeletedResponse,
    summary="Delete a response",
    responses=errors(401, 404, 429, 503),
)
async def delete(gateway: GatewayDep, response_id: ResponseId, found: Found) -> JSONResponse:
    """Ends it where it still runs; from now on it is 404."""
    record, _ = found
    await gateway.canceller.cancel(record.job_id, record.key_id)
    record = await gateway.jobs.get(record.job_id, record.key_id)
    await gateway.forgetting.forget(record)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.get(
    "/{response_id}/input_items",
    operation_id="list_input_items",
    response_model=InputItems,
    summary="What a response was given",
    responses=errors(400, 401, 404, 429, 503),
)
async def input_items(
    found: Found,
    limit: Annotated[int, Query(ge=1, le=100, description="Items at most.")] = 20,
    order: Annotated[
        Literal["asc", "desc"], Query(description="`desc`: the last one first.")
    ] = "desc",
    after: Annotated[str | None, Query(description="The id of the last item you have.")] = None,
) -> JSONResponse:
    """The items of earlier responses, which it goes on from, are among them."""
    record, reply = found
    items = [listed(item) for item in with_ids(reply.items, record.job_id)]
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise InvalidRequestError(
            "after must be the id of an item of this response.", param="after"
        )
    start = 0 if after is None else ids.index(after) + 1
    return JSONResponse(_page(items[start : start + limit], has_more=start + limit < len(items)))


def _page(items: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
