"""The bodies of what is answered about responses, for the API's documentation.

Tests hold the real ones to them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.answers import RoutingAnswer
from api.openai.answers import Performance

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ResponseFailure(_Answer):
    """Why a response failed."""

    code: Literal["server_error", "invalid_prompt"]
    message: str
    type: str


class IncompleteDetails(_Answer):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class OutputText(_Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(description="Always empty.")
    logprobs: list[dict[str, Any]]


class OutputMessage(_Answer):
    """A message of the model."""

    id: str = Field(examples=["msg_0b0f7a1e-6d0b-4d0c-9d63-2f1f9be1d4a7-0"])
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class FunctionCall(_Answer):
    """A call of a function."""

    id: str = Field(examples=["fc_0b0f7a1e-6d0b-4d0c-9d63-2f1f9be1d4a7-0"])
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str = Field(examples=["call_5f2b6c0e8f0d4c5f9f0d1b1c"])
    name: str
    arguments: str = Field(description="JSON.")


class InputTokensDetails(_Answer):
    """Of the input's tokens."""

    cached_tokens: int = Field(description="Read before, for another request.")
    cache_write_tokens: Literal[0]


class OutputTokensDetails(_Answer):
    """Of the output's tokens."""

    reasoning_tokens: Literal[0]


class ResponseUsage(_Answer):
    """Tokens."""

    input_tokens: int = Field(examples=[22])
    input_tokens_details: InputTokensDetails
    output_tokens: int = Field(examples=[10])
    output_tokens_details: OutputTokensDetails
    total_tokens: int = Field(examples=[32])


class ResponseAnswer(_Answer):
    """A response as it stands."""

    id: str = Field(examples=["resp_0b0f7a1e-6d0b-4d0c-9d63-2f1f9be1d4a7"])
    object: Literal["response"]
    created_at: int = Field(description="When it was accepted.", examples=[1699017642])
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None = Field(description="As it was asked for.")
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage | FunctionCall] = Field(description="Empty until the end.")
    parallel_tool_calls: bool
    performance: Performance | None = Field(default=None, description="Once it has ended.")
    routing: RoutingAnswer | None = Field(
        default=None, description="Why it was this model, where a `router` has picked it."
    )
    previous_response_id: str | None
    reasoning: dict[str, None]
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(_Answer):
    """A response is deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(_Answer):
    """Some of the items that a response was given."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
