"""The body of `POST /generate`: its fields, their ranges, and what they mean together.

Strict: an unknown field is an error, "512" is no number, and `true` is none either. Knows nothing
about models; whether a prompt fits is the submission's to say.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from api.field_error import FieldError
from api.response_format import ResponseFormat
from common.infer_request import ScorerReference
from common.schemas import JobClass

MAX_INT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_METADATA = 16
MAX_FIELDS = 64
MAX_STOP_IDS = 1024
MAX_LOGIT_BIASES = 1024
MAX_LOGPROBS = 20
MAX_PROMPTS = 128
MAX_GENERATIONS = 512
"""Choices of all prompts of one request together: it counts once toward its key's rate."""
DEFAULT_TOP_K = 50

_TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")

Strategy = Literal["greedy", "top_k", "top_p"]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _by_token_id(value: object) -> object:
    """JSON has no numbers as names; the number of entries is looked at before any of them."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_LOGIT_BIASES:
        raise ValueError(f"must have at most {MAX_LOGIT_BIASES} tokens; got {len(value)}")
    for name in value:
        if not (isinstance(name, str) and _TOKEN_ID.fullmatch(name)):
            raise ValueError('must have token ids as its names, as in {"50256": -100}')
    return {int(name): bias for name, bias in value.items()}


def _encodable(text: str) -> str:
    # A string with a length limit is checked by pydantic itself.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    return text


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
NameText = Annotated[
    str,
    StringConstraints(max_length=256),
    AfterValidator(_without_nul),
    Field(json_schema_extra={"pattern": "^[^\\u0000]*$"}),
]
RoleText = Annotated[str, StringConstraints(min_length=1, max_length=64)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
StopTexts = Annotated[
    list[StopText],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS},
                {
                    "type": "array",
                    "maxItems": MAX_STOPS,
                    "items": {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS},
                },
            ]
        }
    ),
]


TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
LogitBias = Annotated[
    dict[TokenId, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_by_token_id),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_LOGIT_BIASES,
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"] = Field(examples=["user"])
    content: Text = Field(min_length=1, examples=["Tell me a story about a little dog."])


class ModelChoice(BaseModel):
    """Which model is meant, by either of two names of one field."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: NameText | None = Field(default=None, description="An id of `GET /models`.")
    model_id: NameText | None = Field(default=None, description="Another name of `model`.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.model is not None and self.model_id not in (None, self.model):
            raise FieldError("model_id", "is another name of model; got different values")
        return self

    @property
    def model_name(self) -> str | None:
        """The model that the request names, by either field."""
        return self.model if self.model is not None else self.model_id


class GenerationOptions(ModelChoice):
    """How to generate, whatever the prompt."""

    model_config = ConfigDict(allow_inf_nan=False)

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
    top_k: int = Field(
        default=0, ge=0, le=MAX_INT, description="Draw from the k likeliest tokens; 0: from all."
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Drop tokens less likely than this part of the likeliest one's probability.",
    )
    strategy: Strategy | None = Field(
        default=None,
        description="Wins over the numbers: `greedy` sets temperature 0, `top_k` sets top_p 1, "
        "`top_p` sets top_k 0.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="The same seed draws the same tokens. Default: a random one.",
    )
    stop: StopTexts | None = Field(
        default=None, description="Texts that end the answer and are not part of it."
    )
    stop_token_ids: list[TokenId] | None = Field(
        default=None,
        max_length=MAX_STOP_IDS,
        fail_fast=True,
        description="Tokens that end the answer, as the model's end token does.",
    )
    logit_bias: LogitBias | None = Field(
        default=None,
        description="What is added to the logits of tokens, by their ids: -100 to 100.",
        examples=[{"11": -100}],
    )
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Tell how likely each token was, beside this many of the likeliest ones: by "
        "the model alone, before penalties and temperature.",
    )
    response_format: ResponseFormat | None = Field(
        default=None, description="What the answer has to look like. Default: any text."
    )
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, ge=0.1, le=2, description="1 changes nothing.")
    ignore_eos: bool = Field(default=False, description="Go on after the model's end token.")
    min_tokens: int = Field(
        default=0,
        ge=0,
        description="Tokens to generate at least. One above the default of `max_tokens` raises it.",
    )
    user_id: NameText | None = Field(default=None, description="Your user, for your own tracking.")
    priority: JobClass = Field(default="normal", description="Which line to wait in.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that the job may run. Default and maximum: TASK_TIME_LIMIT (120).",
    )
    metadata: dict[NameText, NameText] | None = Field(
        default=None, max_length=MAX_METADATA, description="Up to 16 pairs of text, kept with it."
    )

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, body: object) -> object:
        # Each unknown field would become an error of its own; one is enough.
        if isinstance(body, dict) and len(body) > MAX_FIELDS:
            raise ValueError(f"The body must have at most {MAX_FIELDS} fields; got {len(body)}")
        return body

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise FieldError(
                "min_tokens",
                f"must be at most max_tokens; got {self.min_tokens} and {self.max_tokens}",
            )
        return self


class RouterFields(BaseModel):
    """Who picks the model of `model: "auto"`."""

    router: ScorerReference | None = Field(
        default=None,
        description="A scorer, `dense_network/NAME`, that picks the model: the one that is served "
        'with the best score for the prompt. Goes with `model: "auto"`.',
    )
    cost_weight: float | None = Field(
        default=None,
        ge=0,
        description="What a model's `cost` of 1, as `MODELS` states it, takes from its score. "
        "Default: 0.",
    )

    def check_router(self, model: str | None) -> None:
        """Check that these fields and the model go together.

        Raises:
            ValueError: They do not.
        """
        if self.router is not None and model not in (None, "auto"):
            raise ValueError(f"router goes with model: auto; got {model!r}")
        if self.router is None and self.cost_weight is not None:
            raise ValueError("cost_weight goes with router")


class _OnePrompt(BaseModel):
    prompt: str | None = Field(
        default=None,
        min_length=1,
        description="The text to answer. It goes through the model's chat template, unless `raw`.",
    )
    messages: list[ChatMessage] | None = Field(
        default=None,
        min_length=1,
        fail_fast=True,
        description="A conversation, in place of `prompt`.",
    )
    raw: bool = Field(default=False, description="Continue `prompt` as it is, without a template.")


class _ManyPrompts(BaseModel):
    prompts: list[Annotated[Text, Field(json_schema_extra={"minLength": 1})]] = Field(
        min_length=1,
        max_length=MAX_PROMPTS,
        fail_fast=True,
        description="The texts to answer. Each goes through the chat template, unless `raw`.",
        examples=[["Hello", "Goodbye"]],
    )
    raw: bool = Field(default=False, description="Continue them as they are, without a template.")


# A class's fields come after those of the classes that stand to the right of it.
class GenerateRequest(GenerationOptions, RouterFields, _OnePrompt):
    """What to generate, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": "Once upon a time",
                    "max_tokens": 128,
                    "temperature": 0.7,
                    "top_p": 0.9,
                    "user_id": "user-12345",
                }
            ]
        },
    )

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            came = "neither" if self.prompt is None else "both"
            raise ValueError(f"Exactly one of prompt and messages is expected; got {came}")
        if self.prompt is not None and not self.raw and not self.prompt.strip():
            raise FieldError("prompt", "must not be empty; got nothing but white space")
        if self.raw and self.messages is not None:
            raise FieldError("raw", "goes with prompt, not with messages")
        self.check_router(self.model_name)
        return self


class BatchGenerateRequest(GenerationOptions, _ManyPrompts):
    """What to generate for each of several prompts, all in the same way."""

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        for index, prompt in enumerate(self.prompts):
            if not (prompt if self.raw else prompt.strip()):
                raise FieldError(f"prompts[{index}]", "must not be empty")
        return self
