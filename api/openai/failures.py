"""The end of a job that has no answer, as an error for the client that waits for one."""

from __future__ import annotations

from api.job_views import error_type_of, message_of
from common.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineTimeoutError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelLoadError,
    RequestError,
    TaskCancelledError,
    TaskFailedError,
    UpstreamError,
    UpstreamFailedError,
)
from common.schemas import JobRecord, JobStatus

_ERRORS: dict[str, type[RequestError]] = {
    InvalidRequestError.__name__: InvalidRequestError,
    ContextLengthError.__name__: ContextLengthError,
    ModelLoadError.__name__: EngineUnavailableError,
    DeadlineExceededError.__name__: EngineTimeoutError,
    UpstreamError.__name__: UpstreamFailedError,
}
"""By the `error_type` of the record; a job that was accepted before its model was known may turn
out to be a bad request only at the worker."""


def failure_of(record: JobRecord) -> RequestError | None:
    """What a client is told of an ended job, or None where the job is completed."""
    if record.status is JobStatus.COMPLETED:
        return None
    if record.status is JobStatus.CANCELLED:
        return TaskCancelledError("The request was cancelled before it was answered.")
    return _ERRORS.get(error_type_of(record), TaskFailedError)(message_of(record))
