"""The events of the streams, for the API's documentation; a test holds the real ones to them.

A stream's schema is that of one event, as is usual before OpenAPI 3.2, which has a word of its own
for it. The event's `data` is JSON, and that has a schema in turn.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from api.answers import ErrorAnswer, Metrics, Progress, RoutingAnswer, Status, TokenLogprob
from api.openai.answers import (
    ChatLogprobs,
    CompletionLogprobs,
    OpenAIError,
    Performance,
    Usage,
)

_COMPONENT = "#/components/schemas/{model}"
DONE = "[DONE]"


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TaskEvent(_Event):
    """What has come of a task since the event before; the last one tells its end."""

    status: Status
    task_id: str
    message: str
    token: str = Field(description="New text; all of them put together are the result.")
    progress: Progress
    queue_position: int | None = Field(default=None, description="1 is next, while it waits.")
    snapshot: Literal[True] | None = Field(
        default=None, description="`token` is the whole text so far, in place of what came before."
    )
    restarted: Literal[True] | None = Field(
        default=None, description="The task began again from nothing."
    )
    logprobs: list[TokenLogprob] | None = Field(
        default=None, description="Of the new tokens, where they were asked for."
    )
    result: str | None = Field(default=None, description="The whole text, at the end.")
    metrics: Metrics | None = Field(default=None, description="At the end.")
    finish_reason: str | None = Field(default=None, description="At the end.")
    routing: RoutingAnswer | None = Field(
        default=None, description="At the end, where a `router` has picked the model."
    )
    error_message: str | None = Field(default=None, description="Where it failed or expired.")
    error_type: str | None = None


class TokenEvent(_Event):
    """New text."""

    token: str = Field(examples=[" upon"])


class DoneEvent(_Event):
    """The end."""

    done: Literal[True]
    routing: RoutingAnswer | None = Field(
        default=None, description="Where a `router` has picked the model."
    )


class ErrorEvent(ErrorAnswer):
    """The end, where something went wrong on the way."""

    done: Literal[True]
    routing: RoutingAnswer | None = Field(
        default=None, description="Where a `router` has picked the model."
    )


class CalledFunctionDelta(_Event):
    """A part of a call; the name comes with the first one."""

    name: str | None = None
    arguments: str


class ToolCallDelta(_Event):
    """A part of a call of a tool."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunctionDelta


class MessageDelta(_Event):
    """What a message has gained."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(_Event):
    """What one of the answers has gained."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class CompletionChunkChoice(_Event):
    """What one of the texts has gained."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class _Chunk(_Event):
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    usage: Usage | None = Field(
        default=None, description="In one more chunk before the end, with `include_usage`."
    )
    performance: Performance | None = Field(default=None, description="Beside the usage.")
    routing: RoutingAnswer | None = Field(
        default=None,
        description="Of a routed request: beside the usage, else the finish reason.",
    )


class ChatChunk(_Chunk):
    """A part of the answer to a conversation."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]


class CompletionChunk(_Chunk):
    """A part of a completion."""

    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]


class ResponseEvent(BaseModel):
    """One of OpenAI's events, by its type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["response.output_text.delta"])
    sequence_number: int = Field(description="Where to go on after a lost connection.")


_MODELS: tuple[type[BaseModel], ...] = (
    *(TaskEvent, TokenEvent, DoneEvent, ErrorEvent),
    *(ChatChunk, CompletionChunk, ResponseEvent, OpenAIError),
)


def event_stream(*events: type[BaseModel], is_done_said: bool = False) -> dict[str, Any]:
    """The `content` of an answer that is a stream.

    Args:
        events: What an event's data may be.
        is_done_said: The last event's data is `[DONE]`, which is not JSON.
    """
    schemas, _ = models_json_schema(
        [(event, "serialization") for event in events], ref_template=_COMPONENT
    )
    refs = [schemas[event, "serialization"] for event in events]
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": refs[0] if len(refs) == 1 else {"anyOf": refs},
    }
    if is_done_said:
        data = {"anyOf": [{"const": DONE}, data]}
    event = {
        "type": "object",
        "description": "One event.",
        "properties": {"data": data, "id": {"type": "string"}, "event": {"type": "string"}},
        "required": ["data"],
    }
    return {"text/event-stream": {"schema": event}}


def components() -> dict[str, Any]:
    """The schemas that those of the streams refer to, by their names."""
    _, definitions = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template=_COMPONENT
    )
    found: dict[str, Any] = definitions["$defs"]
    return found
