"""The bodies of `/v1/batches`, and of its answers.

Source:
    OpenAI's API reference, Batch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.batches.requests import Endpoint
from api.schemas import MAX_METADATA, NameText
from common.batch_store import BatchRecord, BatchStatus

BATCH_ID = "batch_3f1c9a0b7d2e4c5f8a6b1d0e"
WINDOW_MS = 24 * 3600 * 1000


class BatchRequest(BaseModel):
    """What to answer in one's own time."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input_file_id: NameText = Field(
        description="A file of `POST /v1/files` with one request on each line.",
        examples=["file-3f1c9a0b7d2e4c5f8a6b1d0e"],
    )
    endpoint: Endpoint = Field(description="Where every line's `url` points.")
    completion_window: Literal["24h"] = Field(description="After it, what is left is not run.")
    metadata: dict[NameText, NameText] | None = Field(default=None, max_length=MAX_METADATA)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BatchErrorAnswer(_Answer):
    """A malformed line, or why the batch could not be run at all."""

    code: str = Field(examples=["invalid_json_line"])
    message: str
    param: str | None
    line: int | None = Field(description="1 is the first line.")


class BatchErrorsAnswer(_Answer):
    """The first hundred malformed lines."""

    object: Literal["list"]
    data: list[BatchErrorAnswer]


class BatchCounts(_Answer):
    """How far a batch is; a little behind what is done."""

    total: int
    completed: int
    failed: int


_Time = Annotated[int | None, Field(description="Seconds since the epoch.")]


class BatchAnswer(_Answer):
    """A batch."""

    id: str = Field(examples=[BATCH_ID])
    object: Literal["batch"]
    endpoint: str
    model: None
    errors: BatchErrorsAnswer | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating",
        "in_progress",
        "finalizing",
        "completed",
        "failed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: _Time
    expires_at: int
    finalizing_at: _Time
    completed_at: _Time
    failed_at: _Time
    expired_at: _Time
    cancelling_at: _Time
    cancelled_at: _Time
    request_counts: BatchCounts
    usage: dict[str, Any] | None = Field(description="Tokens of all answers together.")
    metadata: dict[str, str] | None


class BatchesAnswer(_Answer):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_view(record: BatchRecord) -> dict[str, Any]:
    """A batch as clients see it."""
    errors = {"object": "list", "data": list(record.errors)} if record.errors else None
    return {
        "id": record.batch_id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": None,
        "errors": errors,
        "input_file_id": record.input_file,
        "completion_window": record.window,
        "status": record.status,
        "output_file_id": record.output_file,
        "error_file_id": record.error_file,
        "created_at": record.created_ms // 1000,
        "in_progress_at": _seconds(record.in_progress_ms),
        "expires_at": record.expires_ms // 1000,
        "finalizing_at": _seconds(record.finalizing_ms),
        "completed_at": _ended(record, BatchStatus.COMPLETED),
        "failed_at": _ended(record, BatchStatus.FAILED),
        "expired_at": _ended(record, BatchStatus.EXPIRED),
        "cancelling_at": _seconds(record.cancelling_ms),
        "cancelled_at": _ended(record, BatchStatus.CANCELLED),
        "request_counts": {
            "total": record.total or 0,
            "completed": record.completed,
            "failed": record.failed,
        },
        "usage": _usage(record),
        "metadata": None if record.metadata is None else dict(record.metadata),
    }


def _seconds(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms // 1000


def _ended(record: BatchRecord, status: BatchStatus) -> int | None:
    return _seconds(record.ended_ms) if record.status is status else None


def _usage(record: BatchRecord) -> dict[str, Any] | None:
    if record.completed == 0:
        return None
    return {
        "input_tokens": record.prompt_tokens,
        "input_tokens_details": {"cached_tokens": record.cached_tokens},
        "output_tokens": record.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": record.prompt_tokens + record.completion_tokens,
    }
