"""The end of a job that has no answer, as an error for the client that waits for one."""

from __future__ import annotations

from collections.abc import Mapping

from api.job_request import named
from api.job_views import error_type_of, message_of
from common.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineTimeoutError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelLoadError,
    RequestError,
    ScorerError,
    ScorerNotFoundError,
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
    ScorerError.__name__: EngineUnavailableError,
    ScorerNotFoundError.__name__: ScorerNotFoundError,
}
"""By the `error_type` of the record; a job that was accepted before its model was known may turn
out to be a bad request only at the worker."""


def failure_of(record: JobRecord, params: Mapping[str, str]) -> RequestError | None:
    """What a client is told of an ended job, or None where the job is completed.

    Args:
        record: The job.
        params: The route's own names of fields, as in a `JobRequest`.
    """
    if record.status is JobStatus.COMPLETED:
        return None
    if record.status is JobStatus.CANCELLED:
        return TaskCancelledError("The request was cancelled before it was answered.")
    kind = _ERRORS.get(error_type_of(record), TaskFailedError)
    return named(kind(message_of(record), param=record.error_param), params)
