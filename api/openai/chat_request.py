"""The body of `POST /v1/chat/completions`.

Messages and tools are taken as they come: `common.chat_messages` and `common.tool_calls` check
them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from api.openai.conversation_schemas import MESSAGES, TOOL_CHOICE, TOOLS, or_null
from api.openai.fields import FieldError, OpenAIRequest, Unused
from api.response_format import ResponseFormat
from api.schemas import MAX_INT

_TEXT_ALONE = {"type": "array", "items": {"const": "text"}, "minItems": 1, "maxItems": 1}


def _documented(schema: dict[str, Any]) -> None:
    schema["examples"] = [
        {
            "model": "baton-toy",
            "messages": [{"role": "user", "content": "Tell me a story about a dog."}],
            "max_tokens": 128,
        }
    ]
    # Completions may generate nothing, and only score their prompt.
    schema["properties"]["max_tokens"]["anyOf"][0]["minimum"] = 1


class ChatRequest(OpenAIRequest):
    """What to answer, and how."""

    model_config = ConfigDict(json_schema_extra=_documented)
    unsupported: ClassVar[dict[str, str]] = {
        "functions": "use tools",
        "function_call": "use tool_choice",
        "audio": "the model writes text alone",
        "web_search_options": "the model searches nothing",
        "moderation": "nothing is moderated",
    }

    messages: Annotated[Any, WithJsonSchema(MESSAGES)] = Field(
        description="The conversation. Roles: system, developer, user, assistant, tool."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, le=MAX_INT, description="The newer name of `max_tokens`."
    )
    logprobs: bool | None = Field(default=None, description="Tell how likely each token was.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="And this many of the likeliest in its place."
    )
    response_format: ResponseFormat | None = Field(
        default=None, description="What the answer has to look like. Default: any text."
    )
    tools: Annotated[Any, WithJsonSchema(or_null(TOOLS))] = Field(
        default=None, description="Functions that the model may call."
    )
    tool_choice: Annotated[Any, WithJsonSchema(or_null(TOOL_CHOICE))] = Field(
        default=None, description="Default: `auto` where there are tools, else `none`."
    )
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether several calls may come at once. Default: true."
    )
    modalities: Annotated[list[str], WithJsonSchema(_TEXT_ALONE)] | None = Field(
        default=None, description='`["text"]`.'
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, max_length=16, description="More variables for the model's chat template."
    )

    prediction: Unused = None
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None
    reasoning_effort: Unused = None
    safety_identifier: Unused = None
    service_tier: Unused = None
    store: Unused = None
    verbosity: Unused = None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise FieldError("max_tokens", "is another name of max_completion_tokens; got both")
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldError("top_logprobs", "goes with logprobs: true")
        if self.modalities not in (None, ["text"]):
            raise FieldError("modalities", 'must be ["text"]: the model writes text alone')
        return self

    @property
    def most_tokens(self) -> int | None:
        """Tokens to generate at most, by either name."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to list; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None
