"""The fields that OpenAI's endpoints have in common, and our sampling extras.

Strict, as the native endpoints are, except that `null` stands for a field that was left out:
OpenAI's clients send it. What changes nothing here is taken and named in `docs/api.md`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from api.schemas import (
    MAX_FIELDS,
    MAX_INT,
    MAX_METADATA,
    MAX_SEED,
    MAX_STOP_IDS,
    LogitBias,
    NameText,
    RouterFields,
    StopTexts,
    Strategy,
    TokenId,
)
from common.sampling import MAX_CHOICES
from common.schemas import JobClass


class FieldError(ValueError):
    """What is wrong with a body as a whole.

    Attributes:
        param: The field at fault.
    """

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param} {problem}")
        self.param = param


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = Field(
        default=None, description="One more chunk before the end tells the usage of the whole."
    )
    include_obfuscation: bool | None = Field(default=None, description="Changes nothing.")


class CallBody(BaseModel):
    """The fields of every call that is a job."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    unsupported: ClassVar[dict[str, str]] = {}
    """Fields of OpenAI's that would change the answer and cannot, and what to do instead."""

    model: NameText = Field(description="An id of `GET /v1/models`.", examples=["baton-toy"])
    user: NameText | None = Field(default=None, description="Your user, for your own tracking.")
    priority: JobClass | None = Field(
        default=None, description="Which line to wait in. Default: normal."
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that the job may run. Default and maximum: TASK_TIME_LIMIT (120).",
    )

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        # Each unknown field would become an error of its own; one is enough.
        if len(body) > MAX_FIELDS:
            raise ValueError(f"The body must have at most {MAX_FIELDS} fields; got {len(body)}")
        return {name: value for name, value in body.items() if not cls._is_void(name, value)}

    @classmethod
    def _is_void(cls, name: object, value: object) -> bool:
        """Whether a field is one of OpenAI's that cannot be obeyed, and asks for nothing.

        Raises:
            ValueError: It asks for something.
        """
        if name not in cls.unsupported:
            return False
        if value not in (None, False, [], {}, ""):
            raise FieldError(str(name), f"is not supported here: {cls.unsupported[str(name)]}")
        return True

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is sent while it is made."""
        return False

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return False


class OpenAIRequest(CallBody, RouterFields):
    """The fields of both generating endpoints."""

    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_INT,
        description="Tokens to generate at most. Default: MAX_NEW_TOKENS (512), cut to what the "
        "model's context still holds.",
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 is greedy. Default: TEMPERATURE (0.7)."
    )
    top_p: float | None = Field(
        default=None, ge=0, le=1, description="Nucleus mass; 0 is greedy. Default: TOP_P (0.9)."
    )
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="Choices. Default: 1.")
    stop: StopTexts | None = Field(
        default=None, description="Texts that end the answer and are not part of it."
    )
    seed: int | None = Field(
        default=None,
        ge=-MAX_SEED - 1,
        le=MAX_SEED,
        description="The same seed draws the same tokens. Default: a random one.",
    )
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: LogitBias | None = Field(
        default=None,
        description="What is added to the logits of tokens, by their ids: -100 to 100.",
        examples=[{"11": -100}],
    )
    stream: bool | None = Field(default=None, description="Send the answer while it is generated.")
    stream_options: StreamOptions | None = None
    metadata: dict[NameText, NameText] | None = Field(
        default=None, max_length=MAX_METADATA, description="Up to 16 pairs of text, kept with it."
    )

    top_k: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INT,
        description="Draw from the k likeliest tokens; 0: from all. Default: 50.",
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Drop tokens less likely than this part of the likeliest one's probability.",
    )
    strategy: Strategy | None = Field(
        default=None, description="Wins over the numbers, as in `POST /generate`."
    )
    repetition_penalty: float | None = Field(
        default=None, ge=0.1, le=2, description="1 changes nothing."
    )
    min_tokens: int | None = Field(default=None, ge=0, description="Tokens to generate at least.")
    ignore_eos: bool | None = Field(
        default=None, description="Go on after the model's end token. Default: false."
    )
    stop_token_ids: list[TokenId] | None = Field(
        default=None,
        max_length=MAX_STOP_IDS,
        fail_fast=True,
        description="Tokens that end the answer, as the model's end token does.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> OpenAIRequest:
        if self.stream_options is not None and not self.stream:
            raise FieldError("stream_options", "goes with stream: true")
        self.check_router(self.model)
        return self

    @property
    def is_streamed(self) -> bool:
        """Source: CallBody."""
        return bool(self.stream)

    @property
    def tells_usage(self) -> bool:
        """Source: CallBody."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def _nothing(value: object) -> None:
    return None


Unused = Annotated[Any, BeforeValidator(_nothing), Field(description="Changes nothing.")]
"""A field of OpenAI's that changes nothing here, whatever it says."""
