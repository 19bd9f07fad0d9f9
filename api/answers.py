"""The bodies of the answers, for the API's documentation; a test holds the real ones to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["queued", "processing", "completed", "failed", "cancelled", "expired"]
TASK_ID = "0b0f7a1e-6d0b-4d0c-9d63-2f1f9be1d4a7"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorAnswer(_Answer):
    """What went wrong."""

    error: str = Field(examples=["temperature must be from 0 to 2; got 3."])
    status_code: int = Field(examples=[400])
    error_type: str = Field(examples=["InvalidRequestError"])
    request_id: str | None = Field(examples=["5f2b6c0e8f0d4c5f9f0d1b1c2a3e4f50"])
    param: str | None = Field(default=None, description="The field at fault, where there is one.")


class SubmitAnswer(_Answer):
    """An accepted task, and where to follow it."""

    status: Status = Field(description="`queued`; of a repeat, where the task is by now.")
    task_id: str = Field(examples=[TASK_ID])
    message: str
    status_url: str
    result_url: str
    stream_url: str = Field(description="Opens this one stream without a key: give it to browsers.")
    cancel_url: str
    queue_position: int | None = Field(
        description="1 is next; null where a repeat's task waits no more.", examples=[1]
    )


class Progress(_Answer):
    """How far a task is."""

    completion_tokens: int = Field(examples=[45])
    max_tokens: int | None = Field(examples=[256])


class StatusAnswer(_Answer):
    """Where a task is."""

    status: Status
    task_id: str = Field(examples=[TASK_ID])
    message: str = Field(examples=["Task is currently being processed"])
    queue_position: int | None = Field(description="1 is next; null unless it waits.")
    eta_seconds: float | None = Field(description="Until its end, roughly; null where unknown.")
    progress: Progress
    attempt: int = Field(description="How many workers have taken it up.", examples=[1])
    created_at: str = Field(examples=["2026-01-31T12:00:00.000+00:00"])
    started_at: str | None
    ended_at: str | None
    model: str
    user_id: str | None
    metadata: dict[str, str]


class UnfinishedAnswer(_Answer):
    """The result is not there yet."""

    status: Literal["queued", "processing"]
    task_id: str = Field(examples=[TASK_ID])
    message: str = Field(examples=["Task is currently being processed"])


class Metrics(_Answer):
    """Times in seconds, and tokens."""

    queue_wait_time: float = Field(examples=[0.5])
    processing_time: float = Field(examples=[2.3])
    total_time: float = Field(examples=[2.8])
    prompt_tokens: int = Field(examples=[12])
    completion_tokens: int = Field(examples=[45])
    tokens_per_second: float = Field(examples=[19.57])
    time_to_first_token: float | None = Field(examples=[0.6])
    prefill_time: float = Field(
        description="From the first step of the prompt to the first token.", examples=[0.1]
    )
    decode_time: float = Field(description="From there to the end.", examples=[2.2])
    batch_size: int = Field(
        description="Sequences of the largest step that it was part of; 0 if it was in none.",
        examples=[4],
    )
    cached_tokens: int = Field(examples=[0])
    attempts: int = Field(examples=[1])
    counted_by: Literal["upstream", "pieces"] | None = Field(
        default=None,
        description="Of a model that another server runs, who counted its tokens: that server, or "
        "this service, each piece of text that came as one.",
    )


class TopLogprob(_Answer):
    """One of the likeliest tokens."""

    token_id: int = Field(examples=[262])
    logprob: float = Field(examples=[-0.317253])


class TokenLogprob(_Answer):
    """How likely a token was, by the model alone."""

    token_id: int = Field(examples=[262])
    logprob: float = Field(description="Natural logarithm; at least -9999.", examples=[-0.317253])
    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens, best first.")


class RoutingAnswer(_Answer):
    """Which model a router has picked, and why."""

    router: str = Field(examples=["dense_network/example"])
    candidate: str = Field(description="The scorer's name of the model.", examples=["coder-small"])
    model: str = Field(description="Its id.", examples=["coder-small"])
    scores: dict[str, float] = Field(description="Of the scorer's models that are served.")
    cost_weight: float = Field(description="What a cost of 1 takes from a score.", examples=[0.1])
    costs: dict[str, float] = Field(description="Of the same models; empty where the weight is 0.")


class GeneratedAnswer(_Answer):
    """What a task has generated."""

    status: Literal["completed", "cancelled"]
    task_id: str = Field(examples=[TASK_ID])
    result: str = Field(examples=["Once upon a time there was a little dog."])
    metrics: Metrics
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = Field(
        default=None, description="One for each of `token_ids`, where `logprobs` was asked for."
    )
    text: str = Field(description="The same as `result`.")
    num_generated: int = Field(examples=[45])
    finish_reason: str = Field(examples=["stop"])
    model: str
    routing: RoutingAnswer | None = Field(
        default=None, description="Why it was this model, where a `router` has picked it."
    )


class EmbeddedAnswer(_Answer):
    """What a task of `POST /v1/embeddings` has made."""

    status: Literal["completed", "cancelled"]
    task_id: str = Field(examples=[TASK_ID])
    embeddings: list[str] = Field(description="One for each input; none of a cancelled task.")
    encoding_format: Literal["base64"] = Field(description="Of little-endian float32 numbers.")
    dimensions: int | None = Field(description="Numbers of each.", examples=[384])
    metrics: Metrics
    model: str


class ScoredAnswer(_Answer):
    """What a task of `POST /infer` has found."""

    status: Literal["completed", "cancelled"]
    task_id: str = Field(examples=[TASK_ID])
    scores: dict[str, list[float]] = Field(
        description="By model, in the order of the prompts; empty of a cancelled task."
    )
    metrics: Metrics
    model: str = Field(description="The scorer.", examples=["dense_network/example"])


class InferAnswer(_Answer):
    """The scores."""

    scores: dict[str, list[float]] = Field(
        description="By model, in the order of the prompts; each from 0 to 1.",
        examples=[{"coder-small": [0.45, 0.31], "storyteller": [0.5, 0.91]}],
    )


class FailedAnswer(_Answer):
    """A task that failed, or that ran longer than it may.

    The latter has `state: expired`, and what was generated until then.
    """

    status: Literal["error"]
    task_id: str = Field(examples=[TASK_ID])
    error_message: str = Field(examples=["Model loading failed"])
    error_type: str = Field(examples=["ModelLoadError"])
    model: str = Field(description="Of a task of `POST /infer`: the scorer.")
    routing: RoutingAnswer | None = Field(
        default=None, description="Why it was this model, where a `router` has picked it."
    )
    state: Literal["expired"] | None = None
    result: str | None = None
    metrics: Metrics | None = None
    token_ids: list[int] | None = None
    logprobs: list[TokenLogprob] | None = None
    text: str | None = None
    num_generated: int | None = None
    finish_reason: str | None = None


class AcceptedTask(_Answer):
    """One of several accepted tasks."""

    status: Status
    task_id: str = Field(examples=[TASK_ID + "-0"])
    status_url: str
    result_url: str
    stream_url: str
    cancel_url: str


class BatchSubmitAnswer(_Answer):
    """Accepted tasks, in the order of the prompts."""

    status: Literal["queued"]
    message: str
    tasks: list[AcceptedTask]


class BatchGeneratedAnswer(_Answer):
    """What was generated for each prompt, in their order."""

    results: list[GeneratedAnswer | FailedAnswer]


class CancelAnswer(_Answer):
    """A cancelled task: `processing` means that its worker was told."""

    status: Literal["processing", "completed", "failed", "cancelled", "expired"]
    task_id: str = Field(examples=[TASK_ID])
    message: str


class Queue(_Answer):
    """How full the queue is."""

    size: int
    capacity: int


class HealthAnswer(_Answer):
    """How the service is."""

    status: Literal["healthy", "degraded", "unhealthy"]
    state: Literal["ready", "loading", "error"]
    reason: str | None = Field(default=None, description="Why, unless all is well.")
    mode: Literal["api_server"]
    version: str
    redis_connected: bool
    model_loaded: bool
    backend: str
    model: str
    available_models: list[str]
    workers: int = Field(description="Live workers.")
    gpu_memory: dict[str, int] | None = Field(description="Bytes used and total, of all GPUs.")
    queue: Queue
    uptime_seconds: float


class LiveAnswer(_Answer):
    """The gateway runs."""

    status: Literal["alive"]


class ReadyAnswer(_Answer):
    """Whether a task that is submitted now would be run."""

    ready: bool
    engine_connected: bool


class ModelAnswer(_Answer):
    """One model."""

    id: str
    name: str
    description: str
    format: str = Field(description="Of the weights; unknown until a worker has loaded them.")
    loaded: bool


class ModelsAnswer(_Answer):
    """The configured models."""

    models: list[ModelAnswer]


class RootAnswer(_Answer):
    """What this is, and where to go on."""

    message: str
    version: str
    docs: str
    health: str
    links: dict[str, str]


Documented = dict[int | str, dict[str, Any]]
_ERRORS = {
    400: "The request is malformed, or a parameter is out of its range.",
    401: "No API key came, or one that is not known.",
    404: "No such task, or it belongs to another key.",
    409: "The task was cancelled before it was answered.",
    410: "The task ended so long ago that its result was dropped.",
    413: "The body is over 1 MiB; of `/infer`, 16 MiB.",
    422: "The `Idempotency-Key` came with another request before.",
    429: "The key is over its rate; see `Retry-After`.",
    500: "The task failed, or something unforeseen happened.",
    502: "The model, or the scorer, cannot be loaded.",
    503: "The queue is full, or Redis is away; see `Retry-After`.",
    504: "The answer took longer than `WAIT_LIMIT_S`.",
}


def errors(*statuses: int) -> Documented:
    """The documentation of a route's errors."""
    return {s: {"model": ErrorAnswer, "description": _ERRORS[s]} for s in statuses}
