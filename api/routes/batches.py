"""`/v1/batches`: files of requests, answered in their own time.

Source:
    OpenAI's API reference, Batch.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from api.batch_schemas import WINDOW_MS, BatchAnswer, BatchesAnswer, BatchRequest, batch_view
from api.dependencies import GatewayDep, ReaderId, SubmitterId
from api.idempotency import IdempotencyKey, IdempotencyKeyHeader
from api.json_route import JsonRoute
from api.openai.answers import errors
from api.pages import page_view
from api.validation_message import cut, printable
from common.batch_store import BatchSpec
from common.errors import BatchNotFoundError, InvalidRequestError, StoredFileNotFoundError

MAX_PAGE = 100
DEFAULT_PAGE = 20
_BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"], route_class=JsonRoute)


@router.post(
    "",
    operation_id="create_batch",
    response_model=BatchAnswer,
    summary="Submit a file of requests",
    responses=errors(400, 401, 404, 413, 422, 429, 503),
)
async def create(
    gateway: GatewayDep,
    key_id: SubmitterId,
    idempotency_key: IdempotencyKeyHeader,
    body: BatchRequest,
) -> JSONResponse:
    """Its requests run at priority `low`, beside everything else and outside of your rate.

    A malformed line does not sink the batch: it comes back in the error file, with its number. With
    an `Idempotency-Key` a repeat is answered with the same batch.
    """
    try:
        file = await gateway.files.records.get(body.input_file_id, key_id)
    except StoredFileNotFoundError as error:
        raise StoredFileNotFoundError(error.message, param="input_file_id") from error
    if file.purpose != "batch":
        raise InvalidRequestError(
            f"input_file_id must be a file with the purpose batch; got {file.purpose}.",
            param="input_file_id",
        )
    batch_id, request = _names(key_id, idempotency_key, body)
    spec = BatchSpec(
        batch_id=batch_id,
        key_id=key_id,
        request=request,
        endpoint=body.endpoint,
        input_file=body.input_file_id,
        window=body.completion_window,
        expires_ms=int(time.time() * 1000) + WINDOW_MS,
        metadata=body.metadata,
    )
    return JSONResponse(batch_view(await gateway.batches.create(spec)))


@router.get(
    "",
    operation_id="list_batches",
    response_model=BatchesAnswer,
    summary="Your batches",
    responses=errors(400, 401, 404, 429, 503),
)
async def list_batches(
    gateway: GatewayDep,
    key_id: ReaderId,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Batches at most.")] = DEFAULT_PAGE,
    after: Annotated[
        str | None, Query(max_length=64, description="The id of the last batch you have.")
    ] = None,
) -> JSONResponse:
    """Newest first."""
    found, has_more = await gateway.batches.page(key_id, limit=limit, after=after)
    data = [batch_view(record) for record in found]
    return JSONResponse(page_view(data, has_more=has_more))


BatchId = Annotated[str, Path(description="As the submission gave it.")]


@router.get(
    "/{batch_id}",
    operation_id="retrieve_batch",
    response_model=BatchAnswer,
    summary="How far a batch is",
    responses=errors(401, 404, 429, 503),
)
async def retrieve(gateway: GatewayDep, key_id: ReaderId, batch_id: BatchId) -> JSONResponse:
    """Its status and counts, and its files once it has ended."""
    return JSONResponse(batch_view(await gateway.batches.get(_checked(batch_id), key_id)))


@router.post(
    "/{batch_id}/cancel",
    operation_id="cancel_batch",
    response_model=BatchAnswer,
    summary="Call a batch off",
    responses=errors(401, 404, 429, 503),
)
async def cancel(gateway: GatewayDep, key_id: ReaderId, batch_id: BatchId) -> JSONResponse:
    """What has been answered stays, and is in its files once it is `cancelled`."""
    return JSONResponse(batch_view(await gateway.batches.cancel(_checked(batch_id), key_id)))


def _names(key_id: str, key: IdempotencyKey | None, body: BatchRequest) -> tuple[str, str]:
    """The batch's id, which a repeat under the same idempotency key has too, and its request's."""
    if key is None:
        return f"batch_{uuid.uuid4().hex[:24]}", ""
    same = key.of(body)
    digest = hashlib.sha256(f"{key_id} {same.key_hash}".encode()).hexdigest()
    return f"batch_{digest[:24]}", same.request_hash


def _checked(batch_id: str) -> str:
    if not _BATCH_ID.fullmatch(batch_id):
        raise BatchNotFoundError(f"Batch '{cut(printable(batch_id))}' not found")
    return batch_id
