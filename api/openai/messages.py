"""The messages of a chat: roles, texts in one part or several, calls of tools, their results."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from api.openai.fields import Unused
from api.schemas import Text
from common.schemas import Message

MAX_PARTS = 1024
MAX_CALLS = 128


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ContentPart(_Strict):
    """A part of a message: a text."""

    type: Literal["text", "refusal"] = Field(examples=["text"])
    text: Text | None = None
    refusal: Text | None = None
    prompt_cache_breakpoint: Unused = None

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, part: object) -> object:
        if isinstance(part, dict) and part.get("type") not in ("text", "refusal"):
            raise ValueError("must be a part of type text: the model reads text alone")
        return part

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        if getattr(self, self.type) is None:
            raise ValueError(f"must have a {self.type}")
        return self

    @property
    def content(self) -> str:
        """Its text."""
        return (self.text if self.type == "text" else self.refusal) or ""


def _as_parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is not None and not isinstance(content, list):
        raise ValueError("must be a text or a list of text parts")
    return content


Content = Annotated[
    Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)] | None,
    BeforeValidator(_as_parts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        "required": ["type", "text"],
                    },
                },
                {"type": "null"},
            ]
        }
    ),
]


class CalledFunction(_Strict):
    """The function that a tool call names."""

    name: Text = Field(min_length=1)
    arguments: Text = Field(description="JSON.")


class ToolCall(_Strict):
    """A call of a tool, as the model has made it before."""

    id: Text = Field(min_length=1)
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(examples=["user"])
    content: Content = Field(default=None, examples=["Tell me a story about a little dog."])
    name: Text | None = Field(default=None, description="Of who speaks.")
    tool_calls: list[ToolCall] | None = Field(
        default=None, max_length=MAX_CALLS, fail_fast=True, description="Of an assistant."
    )
    tool_call_id: Text | None = Field(default=None, description="Whose result a tool tells.")
    refusal: Text | None = None
    annotations: Unused = None
    audio: Unused = None
    function_call: None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.role != "tool" and self.tool_call_id is not None:
            raise ValueError(f"of role {self.role} must have no tool_call_id")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("of role tool must have a tool_call_id")
        if self.role != "assistant" and self.tool_calls:
            raise ValueError(f"of role {self.role} must have no tool_calls")
        if self.content is None and not (self.tool_calls or self.refusal):
            raise ValueError("must have content")
        return self

    def as_message(self) -> Message:
        """What the model's chat template gets; the parts of a text are its lines."""
        message: Message = {"role": self.role, "content": self._text()}
        for name in ("name", "tool_call_id"):
            if getattr(self, name) is not None:
                message[name] = getattr(self, name)
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return message

    def _text(self) -> str | None:
        if self.content is None:
            return self.refusal
        return "\n".join(part.content for part in self.content)


def as_messages(messages: list[ChatMessage]) -> tuple[dict[str, Any], ...]:
    """What the model's chat template gets."""
    return tuple(message.as_message() for message in messages)
