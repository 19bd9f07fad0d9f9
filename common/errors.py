"""Every error that a user of the service can meet, in one tree.

    BatonError
    |-- SettingsError              stops the start; never leaves the process
    |-- EmbeddedRedisError         stops the start; never leaves the process
    |-- RequestError               answered over HTTP
    |   |-- InvalidRequestError        400  invalid_request
    |   |   `-- ContextLengthError     400  context_length_exceeded
    |   |-- AuthenticationError        401  invalid_api_key
    |   |-- NotFoundError              404  not_found
    |   |   |-- TaskNotFoundError      404  task_not_found
    |   |   |-- ModelNotFoundError     404  model_not_found
    |   |   |   `-- ScorerNotFoundError 404 scorer_not_found
    |   |   |-- BatchNotFoundError     404  batch_not_found
    |   |   |-- StoredFileNotFoundError 404  file_not_found
    |   |   `-- ResponseNotFoundError  404  response_not_found
    |   |-- MethodNotAllowedError      405  method_not_allowed
    |   |-- TaskCancelledError         409  task_cancelled
    |   |-- TaskExpiredError           410  task_expired
    |   |-- PayloadTooLargeError       413  payload_too_large
    |   |-- IdempotencyMismatchError   422  idempotency_mismatch
    |   |-- RateLimitError             429  rate_limit_exceeded
    |   |-- InternalError              500  internal_error
    |   |-- TaskFailedError            500  task_failed
    |   |-- EngineUnavailableError     502  engine_unavailable
    |   |-- UpstreamFailedError        502  upstream_error
    |   |-- QueueFullError             503  queue_full
    |   |-- GatewayBusyError           503  gateway_busy
    |   |-- FileStoreError             503  file_store_unavailable
    |   |-- ModelNotAnnouncedError     503  model_not_announced
    |   |-- RedisUnavailableError      503  redis_unavailable
    |   |-- NoWorkerError              503  no_worker
    |   |-- ScorerUnavailableError     503  scorer_unavailable
    |   |-- ShuttingDownError          503  shutting_down
    |   |-- RestartedError             503  restarted
    |   `-- EngineTimeoutError         504  engine_timeout
    `-- JobError                   ends a job; read from `/result`
        |-- ModelLoadError             model_load_error
        |-- EngineError                engine_error
        |-- UpstreamError              upstream_error
        |-- DeadlineExceededError      deadline_exceeded
        |-- ScorerError                scorer_error
        `-- WorkerLostError            worker_lost

A message is safe to show: it names what was expected and what came, and never a path, an
address or a traceback. What is not in this tree is answered as `InternalError`, and its
traceback goes to the error log alone.
"""

from __future__ import annotations

from typing import ClassVar


class BatonError(Exception):
    """The root of the tree.

    Attributes:
        message: Safe to show to the client.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(BatonError):
    """A setting is wrong; the message names it, its problem and an example."""


class EmbeddedRedisError(BatonError):
    """The embedded Redis server cannot be started."""


class RequestError(BatonError):
    """An error that is answered over HTTP.

    Attributes:
        status: The HTTP status.
        code: A stable name for programs.
        param: The request field at fault, where there is one.
        retry_after_s: Seconds after which a repeat may succeed, where that is known.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequestError(RequestError):
    """The request is malformed, or a parameter is out of its range."""

    status = 400
    code = "invalid_request"


class ContextLengthError(InvalidRequestError):
    """Prompt and output do not fit into the model's context."""

    code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """No API key came, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class NotFoundError(RequestError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


class TaskNotFoundError(NotFoundError):
    """No such task, or it belongs to another key."""

    code = "task_not_found"


class ModelNotFoundError(NotFoundError):
    """No such model is configured."""

    code = "model_not_found"


class ScorerNotFoundError(ModelNotFoundError):
    """No such scorer is saved."""

    code = "scorer_not_found"


class BatchNotFoundError(NotFoundError):
    """No such batch, or it belongs to another key."""

    code = "batch_not_found"


class StoredFileNotFoundError(NotFoundError):
    """No such file, or it belongs to another key."""

    code = "file_not_found"


class ResponseNotFoundError(NotFoundError):
    """No such response, or it was deleted, was not stored, or belongs to another key."""

    code = "response_not_found"


class MethodNotAllowedError(RequestError):
    """The address exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class TaskCancelledError(RequestError):
    """The task that the client waits for was cancelled."""

    status = 409
    code = "task_cancelled"


class TaskExpiredError(RequestError):
    """The task ended so long ago that its result was dropped."""

    status = 410
    code = "task_expired"


class PayloadTooLargeError(RequestError):
    """The body is over the route's limit."""

    status = 413
    code = "payload_too_large"


class IdempotencyMismatchError(RequestError):
    """The idempotency key came with another request before."""

    status = 422
    code = "idempotency_mismatch"


class RateLimitError(RequestError):
    """The key has used up its rate."""

    status = 429
    code = "rate_limit_exceeded"


class InternalError(RequestError):
    """Something unforeseen; details are in the error log only."""


class TaskFailedError(RequestError):
    """The task that the client waits for has failed."""

    code = "task_failed"


class EngineUnavailableError(RequestError):
    """The model that the client waits for cannot be loaded."""

    status = 502
    code = "engine_unavailable"


class UpstreamFailedError(RequestError):
    """The server behind the model that the client waits for does not answer as it should."""

    status = 502
    code = "upstream_error"


class QueueFullError(RequestError):
    """As many jobs are waiting as the service takes."""

    status = 503
    code = "queue_full"


class GatewayBusyError(RequestError):
    """This gateway has too many long prompts of the model to prepare."""

    status = 503
    code = "gateway_busy"


class FileStoreError(RequestError):
    """Where files are kept cannot be reached, or cannot write."""

    status = 503
    code = "file_store_unavailable"


class ModelNotAnnouncedError(RequestError):
    """No worker has loaded the model yet, so its tokenizer is not known."""

    status = 503
    code = "model_not_announced"


class RedisUnavailableError(RequestError):
    """Redis cannot be reached or cannot write; the service recovers by itself."""

    status = 503
    code = "redis_unavailable"


class NoWorkerError(RequestError):
    """No worker has had the model for a while."""

    status = 503
    code = "no_worker"


class ScorerUnavailableError(RequestError):
    """No worker can use the scorer: its files are wrong, or its encoder is not served."""

    status = 503
    code = "scorer_unavailable"


class ShuttingDownError(RequestError):
    """This gateway stops; another one, or its next start, takes the request."""

    status = 503
    code = "shutting_down"


class RestartedError(RequestError):
    """A stream's job began again from nothing, and what was sent cannot be taken back."""

    status = 503
    code = "restarted"


class EngineTimeoutError(RequestError):
    """The answer took longer than the client can wait, or than the task may run."""

    status = 504
    code = "engine_timeout"


class JobError(BatonError):
    """What ended a job. `code` is kept in the record, the class name is its `error_type`."""

    code: ClassVar[str] = "job_error"


class ModelLoadError(JobError):
    """No live worker can load the model.

    Attributes:
        may_pass: The next attempt may succeed: something was wrong, but not known to be wrong
            with the model.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass

    code = "model_load_error"


class EngineError(JobError):
    """The engine could not run this job."""

    code = "engine_error"


class UpstreamError(JobError):
    """The server that the job was sent to could not run it, nor could any other one."""

    code = "upstream_error"


class DeadlineExceededError(JobError):
    """The job ran for longer than its time limit."""

    code = "deadline_exceeded"


class ScorerError(JobError):
    """A saved scorer cannot be used: its files are wrong, or made for another encoder."""

    code = "scorer_error"


class WorkerLostError(JobError):
    """The job's workers died too often while they ran it."""

    code = "worker_lost"
