"""The body of `POST /v1/completions`, for prompts that are continued as they are."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from api.openai.fields import FieldError, OpenAIRequest, Unused
from api.response_format import ResponseFormat
from api.schemas import MAX_INT
from common.schemas import Prompt

MAX_TOKEN_ID = 2**31 - 1
_FORMS = "a text, a list of texts, a list of token ids, or a list of lists of token ids"


def _readable(value: object) -> object:
    _read_prompts(value)
    return value


def _read_prompts(value: object) -> tuple[Prompt, ...]:
    """Any of the four forms as prompts."""
    if isinstance(value, str):
        return (_of_text(value),)
    if not isinstance(value, list):
        raise ValueError(f"must be {_FORMS}")
    if not value:
        raise ValueError("must not be empty")
    if type(value[0]) is int:
        return (_of_ids(value, ""),)
    if isinstance(value[0], str):
        return tuple(_of_text(text) for text in value)
    return tuple(_of_ids(ids, f" number {i}") for i, ids in enumerate(value))


def _of_text(value: object) -> Prompt:
    if not isinstance(value, str):
        raise ValueError(f"must be {_FORMS}, not several of these")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    return Prompt(text=value, raw=True)


def _of_ids(value: object, which: str) -> Prompt:
    if not isinstance(value, list):
        raise ValueError(f"must be {_FORMS}, not several of these")
    if not value:
        raise ValueError(f"{which} must have at least one token".strip())
    # `True` is an int to Python, and no token id.
    if not all(type(i) is int and 0 <= i <= MAX_TOKEN_ID for i in value):
        raise ValueError(f"{which} must hold token ids alone, whole numbers from 0".strip())
    return Prompt(token_ids=tuple(value), raw=True)


_TOKEN_ID = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
_IDS = {"type": "array", "items": _TOKEN_ID, "minItems": 1}
Prompts = Annotated[
    Any,
    AfterValidator(_readable),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
            ]
        }
    ),
]


class CompletionRequest(OpenAIRequest):
    """What to continue, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "baton-toy", "prompt": "Once upon a time", "max_tokens": 100}]
        }
    )
    unsupported: ClassVar[dict[str, str]] = {"suffix": "the model only writes on"}

    # What 0 may be depends on `echo`, and so does what is said of less.
    max_tokens: int | None = Field(
        default=None,
        json_schema_extra={"minimum": 0, "maximum": MAX_INT},
        description="Tokens to generate at most; 0 goes with `echo`. Default: MAX_NEW_TOKENS "
        "(512), cut to what the model's context still holds.",
    )
    prompt: Prompts = Field(description="What to continue, without a chat template.")
    echo: bool | None = Field(default=None, description="Begin the answer with the prompt.")
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Tell how likely each token was, and this many of the likeliest in its place; "
        "with `echo` for the prompt too.",
    )
    best_of: int | None = Field(default=None, ge=1, description="`n`, if it is given at all.")
    response_format: ResponseFormat | None = Field(
        default=None, description="What the completion has to look like. Default: any text."
    )

    safety_identifier: Unused = None
    service_tier: Unused = None
    store: Unused = None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise FieldError(
                "best_of",
                f"must be n, for all choices are sent; got {self.best_of} and {self.n or 1}",
            )
        least = 0 if self.echo else 1
        if self.max_tokens is not None and not least <= self.max_tokens <= MAX_INT:
            raise FieldError(
                "max_tokens",
                f"must be from 1 to {MAX_INT}, or 0 together with echo; got {self.max_tokens}",
            )
        if self.max_tokens == 0 and (self.n or 1) > 1:
            raise FieldError("max_tokens", "0 goes with n: 1, for nothing is generated")
        if self.echo and self.stream and self.logprobs is not None:
            raise FieldError("echo", "with logprobs cannot be streamed")
        return self

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, whatever form they came in."""
        return _read_prompts(self.prompt)

    @property
    def prompt_logprobs(self) -> int | None:
        """How many of the likeliest tokens to list beside those of the prompt; None: none."""
        if not self.echo or (self.logprobs is None and self.max_tokens != 0):
            return None
        return self.logprobs or 0
