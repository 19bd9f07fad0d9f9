"""The bodies of OpenAI's answers, for the API's documentation; tests hold the real ones to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.answers import RoutingAnswer

Documented = dict[int | str, dict[str, Any]]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetails(_Answer):
    """What went wrong."""

    message: str = Field(examples=["temperature must be from 0 to 2; got 3."])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field at fault, where there is one.")
    code: str = Field(examples=["invalid_request"])
    request_id: str | None


class OpenAIError(_Answer):
    """An error, in OpenAI's shape."""

    error: ErrorDetails


class PromptTokensDetails(_Answer):
    """Of the prompt's tokens."""

    cached_tokens: int = Field(description="Read before, for another request.")
    audio_tokens: Literal[0]


class CompletionTokensDetails(_Answer):
    """Of the generated tokens: kinds that there are none of here."""

    reasoning_tokens: Literal[0]
    audio_tokens: Literal[0]
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]


class Usage(_Answer):
    """Tokens of all prompts and choices together."""

    prompt_tokens: int = Field(examples=[22])
    completion_tokens: int = Field(examples=[10])
    total_tokens: int = Field(examples=[32])
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Performance(_Answer):
    """What the answer took."""

    prefill_time_ms: float = Field(description="To process the prompt.", examples=[45.2])
    decode_time_ms: float = Field(description="To generate the tokens.", examples=[123.8])
    queue_time_ms: float = Field(description="In line.", examples=[0])
    tokens_per_second: float = Field(description="From its start to its end.", examples=[14.5])
    batch_size: int = Field(description="Sequences that ran together.", examples=[1])


class ChatTopLogprob(_Answer):
    """One of the likeliest tokens."""

    token: str
    bytes: list[int]
    logprob: float


class ChatTokenLogprob(ChatTopLogprob):
    """How likely a token was, by the model alone."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(_Answer):
    """How likely the tokens of a message were."""

    content: list[ChatTokenLogprob]
    refusal: None


class CalledFunction(_Answer):
    """The function that the model calls."""

    name: str
    arguments: str = Field(description="JSON.")


class ToolCall(_Answer):
    """A call of a tool."""

    id: str = Field(examples=["call_5f2b6c0e8f0d4c5f"])
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(_Answer):
    """The model's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(_Answer):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class _Head(_Answer):
    id: str
    created: int = Field(description="When it was accepted.", examples=[1699017642])
    model: str
    system_fingerprint: str | None = Field(examples=["fp_44709d6fcb"])
    usage: Usage
    performance: Performance
    routing: RoutingAnswer | None = Field(
        default=None, description="Why it was this model, where a `router` has picked it."
    )


class Chat(_Head):
    """The answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionLogprobs(_Answer):
    """How likely the tokens of a text were; null for the first one of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Where each token begins in the text.")


class CompletionChoice(_Answer):
    """One of the texts."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class Completion(_Head):
    """The continuation of one prompt or several."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class Embedding(_Answer):
    """The vector of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="A text where `base64` was asked for.")


class EmbeddingsUsage(_Answer):
    """Tokens of all inputs together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsList(_Answer):
    """The vectors of the inputs, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class Model(_Answer):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str
    loaded: bool = Field(description="By a live worker, now.")
    max_model_len: int | None = Field(description="Tokens of its context; null until loaded.")


class ModelList(_Answer):
    """The configured models."""

    object: Literal["list"]
    data: list[Model]


_ERRORS = {
    400: "The request is malformed, or a parameter is out of its range.",
    401: "No API key came, or one that is not known.",
    404: "No such model.",
    409: "The request was cancelled while its client waited.",
    410: "The answer to the request with this `Idempotency-Key` was dropped.",
    413: "The body is over 1 MiB.",
    422: "The `Idempotency-Key` came with another request before.",
    429: "The key is over its rate; see `Retry-After`.",
    500: "The engine could not answer.",
    502: "The model cannot be loaded, or the server that runs it does not answer.",
    503: "The queue is full, Redis is away, or no worker has the model; see `Retry-After`.",
    504: "The answer took longer than `WAIT_LIMIT_S` or `TASK_TIME_LIMIT`.",
}


def errors(*statuses: int) -> Documented:
    """The documentation of a route's errors."""
    return {s: {"model": OpenAIError, "description": _ERRORS[s]} for s in statuses}
