"""The `response_format` of a request: OpenAI's forms, and three more.

Knows how each is written and how much of it there may be; whether it can be compiled is for the
`grammar_checker` to say.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from api.schema_keywords import find_fault
from common.grammar import GrammarSpec
from common.json_depth import depth_of

FORMATS = ("text", "json_object", "json_schema", "regex", "choice", "lark")

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_CHARS = 8 * 1024
MAX_LARK_CHARS = 32 * 1024
MAX_CHOICES = 1000
MAX_CHOICE_CHARS = 4096
MAX_CHOICES_BYTES = 64 * 1024

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


Choice = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_CHOICE_CHARS), AfterValidator(_encodable)
]


def _bounded_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if depth_of(schema, MAX_SCHEMA_DEPTH) > MAX_SCHEMA_DEPTH:
        raise ValueError(f"must be nested at most {MAX_SCHEMA_DEPTH} levels deep")
    num_bytes = len(_encodable(_dump(schema)).encode())
    if num_bytes > MAX_SCHEMA_BYTES:
        raise ValueError(f"must have at most {MAX_SCHEMA_BYTES} bytes, not {num_bytes}")
    fault = find_fault(schema)
    if fault is not None:
        raise ValueError(f"cannot be used: {fault}")
    return schema


def _bounded_choices(choices: list[str]) -> list[str]:
    num_bytes = sum(len(choice.encode()) for choice in choices)
    if num_bytes > MAX_CHOICES_BYTES:
        raise ValueError(f"must have at most {MAX_CHOICES_BYTES} bytes together, not {num_bytes}")
    return choices


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextFormat(_Format):
    """Any text, as without a format."""

    type: Literal["text"]

    def grammar(self) -> GrammarSpec | None:
        """None: everything is allowed."""
        return None


class JsonObjectFormat(_Format):
    """Any JSON object."""

    type: Literal["json_object"]

    def grammar(self) -> GrammarSpec | None:
        """For the engine."""
        return GrammarSpec("json_object")


class JsonSchema(_Format):
    """A JSON schema with a name, as OpenAI has it."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: Name = Field(examples=["person"])
    schema_: Annotated[dict[str, Any], AfterValidator(_bounded_schema)] = Field(
        alias="schema", description="JSON Schema, draft 2020-12."
    )
    description: str | None = Field(default=None, max_length=1024)
    strict: bool | None = Field(
        default=None, description="The schema is always obeyed, whatever this says."
    )


class JsonSchemaFormat(_Format):
    """JSON that is valid by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def grammar(self) -> GrammarSpec | None:
        """For the engine."""
        return GrammarSpec("json_schema", _dump(self.json_schema.schema_))


class RegexFormat(_Format):
    """A text that matches a regex from its beginning to its end."""

    type: Literal["regex"]
    regex: Annotated[str, AfterValidator(_encodable)] = Field(
        min_length=1, max_length=MAX_REGEX_CHARS, examples=[r"\d{4}-\d{2}-\d{2}"]
    )

    def grammar(self) -> GrammarSpec | None:
        """For the engine."""
        return GrammarSpec("regex", self.regex)


class ChoiceFormat(_Format):
    """One of some texts."""

    type: Literal["choice"]
    choices: Annotated[list[Choice], AfterValidator(_bounded_choices)] = Field(
        min_length=1, max_length=MAX_CHOICES, fail_fast=True, examples=[["yes", "no"]]
    )

    def grammar(self) -> GrammarSpec | None:
        """For the engine."""
        return GrammarSpec("choice", _dump(self.choices))


class LarkFormat(_Format):
    """A text of a grammar in llguidance's dialect of Lark."""

    type: Literal["lark"]
    lark: Annotated[str, AfterValidator(_encodable)] = Field(
        min_length=1, max_length=MAX_LARK_CHARS, examples=['start: "yes" | "no"']
    )

    def grammar(self) -> GrammarSpec | None:
        """For the engine."""
        return GrammarSpec("lark", self.lark)


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | ChoiceFormat | LarkFormat,
    Field(discriminator="type"),
]


def _dump(value: object) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ValueError("must not hold NaN or infinity") from None
