"""`/v1/files`: what batches read and write.

Source:
    OpenAI's API reference, Files.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.dependencies import GatewayDep, ReaderId
from api.file_schemas import DeletedFileAnswer, FileAnswer, FilesAnswer, file_view
from api.files import MAX_NAME_CHARS
from api.openai.answers import errors
from api.pages import page_view
from api.upload import chunks_of
from api.validation_message import cut, printable, shown
from common.errors import InvalidRequestError, StoredFileNotFoundError
from common.file_records import FileRecord

PURPOSES = ("batch",)
MIN_LIFETIME_S, MAX_LIFETIME_S = 3_600, 2_592_000
MAX_PAGE = 10_000
_FILE_ID = re.compile(r"file-[0-9a-f]{24}")
_FIELDS = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(prefix="/v1/files", tags=["OpenAI"])

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["file", "purpose"],
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                    "properties": {
                        "file": {"type": "string", "format": "binary", "minLength": 1},
                        "purpose": {"enum": list(PURPOSES)},
                        "expires_after[anchor]": {"enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": MIN_LIFETIME_S,
                            "maximum": MAX_LIFETIME_S,
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    operation_id="create_file",
    response_model=FileAnswer,
    summary="Upload a file",
    responses=errors(400, 401, 413, 429, 503),
    openapi_extra=_UPLOAD,
)
async def upload(request: Request, gateway: GatewayDep, key_id: ReaderId) -> JSONResponse:
    """At most 200 MB, as `multipart/form-data`; it is yours alone until you delete it."""
    form = await _form_of(request)
    try:
        file = _file_of(form)
        record = await gateway.files.create(
            chunks_of(file),
            key_id=key_id,
            filename=cut(printable(file.filename or "file"), MAX_NAME_CHARS),
            purpose=_purpose_of(form),
            lifetime_s=_lifetime_of(form),
        )
    finally:
        await form.close()
    return JSONResponse(file_view(record))


@router.get(
    "",
    operation_id="list_files",
    response_model=FilesAnswer,
    summary="Your files",
    responses=errors(400, 401, 404, 429, 503),
)
async def list_files(
    gateway: GatewayDep,
    key_id: ReaderId,
    purpose: Annotated[
        str | None, Query(max_length=64, description="Only those with this purpose.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Files at most.")] = MAX_PAGE,
    order: Annotated[Literal["asc", "desc"], Query(description="`desc`: newest first.")] = "desc",
    after: Annotated[
        str | None, Query(max_length=64, description="The id of the last file you have.")
    ] = None,
) -> JSONResponse:
    """By the time of their creation, newest first unless `order` says otherwise."""
    found, has_more = await gateway.files.records.page(
        key_id, limit=limit, order=order, after=after, purpose=purpose
    )
    data = [file_view(record) for record in found]
    return JSONResponse(page_view(data, has_more=has_more))


FileId = Annotated[str, Path(description="As the upload gave it.")]


@router.get(
    "/{file_id}",
    operation_id="retrieve_file",
    response_model=FileAnswer,
    summary="What is known of a file",
    responses=errors(401, 404, 429, 503),
)
async def retrieve(gateway: GatewayDep, key_id: ReaderId, file_id: FileId) -> JSONResponse:
    """Its name, size and purpose."""
    record = await gateway.files.records.get(_checked(file_id), key_id)
    return JSONResponse(file_view(record))


@router.get(
    "/{file_id}/content",
    operation_id="download_file",
    response_class=StreamingResponse,
    summary="A file's content",
    responses={200: {"content": _BYTES}, **errors(401, 404, 429, 503)},
)
async def content(gateway: GatewayDep, key_id: ReaderId, file_id: FileId) -> StreamingResponse:
    """Byte for byte as it was uploaded, or written by a batch."""
    record = await gateway.files.records.get(_checked(file_id), key_id)
    pieces = gateway.files.read(record)
    first = await anext(pieces, b"")  # an error here still has a status
    return StreamingResponse(
        _with_first(first, pieces), media_type="application/octet-stream", headers=_headers(record)
    )


@router.delete(
    "/{file_id}",
    operation_id="delete_file",
    response_model=DeletedFileAnswer,
    summary="Delete a file",
    responses=errors(401, 404, 429, 503),
)
async def delete(gateway: GatewayDep, key_id: ReaderId, file_id: FileId) -> JSONResponse:
    """For good."""
    record = await gateway.files.records.get(_checked(file_id), key_id)
    await gateway.files.delete(record)
    return JSONResponse({"id": record.file_id, "object": "file", "deleted": True})


async def _form_of(request: Request) -> FormData:
    """The form; its file is on disk. Read here, so that a stranger's bytes are never taken."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequestError("The body must be multipart/form-data, with file and purpose.")
    try:
        return await request.form(max_files=1, max_fields=8)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise InvalidRequestError(
            f"The body is not valid multipart/form-data: {error.detail}"
        ) from error


def _file_of(form: FormData) -> UploadFile:
    unknown = sorted(set(form) - _FIELDS)
    if unknown:
        name = printable(unknown[0])
        raise InvalidRequestError(f"{cut(name)} is not a known field.", param=cut(name))
    file = form.get("file")
    if not isinstance(file, UploadFile):
        came = "nothing" if file is None else "a text"
        raise InvalidRequestError(f"file must be a file; got {came}.", param="file")
    if not file.size:
        raise InvalidRequestError("file must not be empty.", param="file")
    return file


def _purpose_of(form: FormData) -> str:
    purpose = form.get("purpose")
    if purpose is None:
        raise InvalidRequestError("purpose is required.", param="purpose")
    if purpose not in PURPOSES:
        raise InvalidRequestError(
            f"purpose must be {' or '.join(PURPOSES)}; got {shown(purpose)}.", param="purpose"
        )
    return str(purpose)


def _lifetime_of(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequestError(
            f"expires_after[anchor] must be created_at; got {shown(anchor)}.",
            param="expires_after[anchor]",
        )
    text = str(seconds)
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or not (
        MIN_LIFETIME_S <= int(text) <= MAX_LIFETIME_S
    ):
        raise InvalidRequestError(
            f"expires_after[seconds] must be a whole number from {MIN_LIFETIME_S} to "
            f"{MAX_LIFETIME_S}; got {shown(seconds)}.",
            param="expires_after[seconds]",
        )
    return int(text)


def _checked(file_id: str) -> str:
    if not _FILE_ID.fullmatch(file_id):
        raise StoredFileNotFoundError(f"File '{cut(printable(file_id))}' not found")
    return file_id


def _headers(record: FileRecord) -> dict[str, str]:
    return {"Content-Length": str(record.num_bytes), "Content-Disposition": "attachment"}


async def _with_first(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in others:
        yield piece
