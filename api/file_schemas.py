"""The answers of `/v1/files`.

Source:
    OpenAI's API reference, Files.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.file_records import FileRecord

FILE_ID = "file-3f1c9a0b7d2e4c5f8a6b1d0e"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileAnswer(_Answer):
    """A file."""

    id: str = Field(examples=[FILE_ID])
    object: Literal["file"]
    bytes: int = Field(examples=[120])
    created_at: int = Field(description="Seconds since the epoch.", examples=[1767225600])
    expires_at: int | None = Field(description="When it is deleted; null: by you alone.")
    filename: str = Field(examples=["requests.jsonl"])
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: None


class FilesAnswer(_Answer):
    """A page of files."""

    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFileAnswer(_Answer):
    """A file that is no more."""

    id: str = Field(examples=[FILE_ID])
    object: Literal["file"]
    deleted: Literal[True]


def file_view(record: FileRecord) -> dict[str, Any]:
    """A file as clients see it."""
    return {
        "id": record.file_id,
        "object": "file",
        "bytes": record.num_bytes,
        "created_at": record.created_ms // 1000,
        "expires_at": None if record.expires_ms is None else record.expires_ms // 1000,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }
