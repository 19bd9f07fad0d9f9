"""The body of `POST /v1/responses`.

`input`, `tools` and `tool_choice` are taken as they come: `conversation` and `tools` check them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from api.openai.conversation_schemas import FLAT_TOOL_CHOICE, FLAT_TOOLS, INPUT, or_null
from api.openai.fields import FieldError, OpenAIRequest, Unused
from api.response_format import (
    ChoiceFormat,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    LarkFormat,
    RegexFormat,
    TextFormat,
)
from api.schemas import MAX_INT, NameText
from common.grammar import GrammarSpec

LOGPROBS = "message.output_text.logprobs"
"""The one thing in `include` that changes an answer here."""
MAX_TOP_LOGPROBS = 20
MAX_INCLUDED = 32

_HIDDEN = ("max_tokens", "n")
"""Fields of the older endpoints that this one does not have."""


class FlatJsonSchemaFormat(JsonSchema):
    """JSON that is valid by a schema, as this endpoint writes it: without a level of its own."""

    type: Literal["json_schema"]

    def grammar(self) -> GrammarSpec | None:
        """For the engine."""
        return JsonSchemaFormat.model_construct(type=self.type, json_schema=self).grammar()


AnswerFormat = Annotated[
    TextFormat | JsonObjectFormat | FlatJsonSchemaFormat | RegexFormat | ChoiceFormat | LarkFormat,
    Field(discriminator="type"),
]


class TextConfig(BaseModel):
    """What the text of the answer has to look like."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: AnswerFormat | None = Field(default=None, description="Default: any text.")
    verbosity: Unused = None


def _documented(schema: dict[str, Any]) -> None:
    schema["examples"] = [{"model": "baton-toy", "input": "Tell me a story about a dog."}]
    for name in _HIDDEN:
        del schema["properties"][name]


class ResponseRequest(OpenAIRequest):
    """What to answer, and how."""

    model_config = ConfigDict(json_schema_extra=_documented)
    unsupported: ClassVar[dict[str, str]] = {
        "max_tokens": "use max_output_tokens",
        "max_completion_tokens": "use max_output_tokens",
        "messages": "use input",
        "n": "there is one answer to a request",
        "response_format": "use text.format",
        "conversation": "use previous_response_id, or send the conversation as input",
        "prompt": "no prompts are kept here; send them as instructions and input",
        "context_management": "nothing is left out of a conversation",
        "moderation": "nothing is moderated",
    }

    input: Annotated[Any, WithJsonSchema(INPUT)] = Field(
        description="A text, or a list of items: messages of text, `function_call`s and "
        "`function_call_output`s."
    )
    instructions: str | None = Field(default=None, description="A system message before the input.")
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_INT,
        description="Tokens to generate at most. Default: MAX_NEW_TOKENS (512), cut to what the "
        "model's context still holds.",
    )
    text: TextConfig | None = None
    tools: Annotated[Any, WithJsonSchema(or_null(FLAT_TOOLS))] = Field(
        default=None, description="Functions that the model may call."
    )
    tool_choice: Annotated[Any, WithJsonSchema(or_null(FLAT_TOOL_CHOICE))] = Field(
        default=None, description="Default: `auto`."
    )
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether several calls may come at once. Default: true."
    )
    previous_response_id: NameText | None = Field(
        default=None, description="A response whose input and output go before this input."
    )
    background: bool | None = Field(
        default=None, description="Answer at once, and run whether anybody waits or not."
    )
    store: bool | None = Field(
        default=None, description="Whether the response can be asked for later. Default: true."
    )
    include: list[NameText] | None = Field(
        default=None,
        max_length=MAX_INCLUDED,
        description=f"`{LOGPROBS}` tells how likely each token was; the rest changes nothing.",
    )
    top_logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Log-probabilities, with this many of the likeliest tokens.",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, max_length=16, description="More variables for the model's chat template."
    )

    access_programs: Unused = None
    image: Unused = None
    max_tool_calls: Unused = None
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None
    reasoning: Unused = None
    safety_identifier: Unused = None
    service_tier: Unused = None
    truncation: Unused = None

    @model_validator(mode="after")
    def _check_storing(self) -> Self:
        if self.background and self.store is False:
            raise FieldError("background", "needs store: true, for the answer is asked for later")
        return self

    @property
    def is_stored(self) -> bool:
        """Whether the response can be asked for later."""
        return self.store is not False

    @property
    def format(self) -> AnswerFormat | None:
        """What the text has to look like, where that was said."""
        return None if self.text is None else self.text.format

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to list; None: no log-probabilities at all."""
        if self.top_logprobs is None and LOGPROBS not in (self.include or ()):
            return None
        return self.top_logprobs or 0
