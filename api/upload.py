"""How large a body may be at which address, and an upload's bytes a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile

MAX_BODY_BYTES = 1 << 20
MAX_FILE_BYTES = 200 * 1000 * 1000
FORM_BYTES = 64 << 10
"""Around the file in its form."""
CHUNK_BYTES = 1 << 20


# 300,000 tokens (`MAX_INPUT_TOKENS`) have 14 bytes each in 4 MiB: an id has up to eight with its
# comma and space, a token's text five at the mean, and more where it is escaped.
_LIMITS = {
    "/v1/files": MAX_FILE_BYTES + FORM_BYTES,
    "/v1/embeddings": 4 << 20,
    "/infer": 16 << 20,
}


def body_limit(path: str) -> int:
    """Bytes that a body at this address may have."""
    return _LIMITS.get(path, MAX_BODY_BYTES)


async def chunks_of(file: UploadFile) -> AsyncIterator[bytes]:
    """The content of an uploaded file."""
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk
