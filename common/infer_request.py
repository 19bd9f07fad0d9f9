"""What a client asks of a scorer: the body of `POST /infer`, and of `baton scorer score`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.scorers import (
    DEFAULT_BATCH_SIZE,
    MAX_BATCH_SIZE,
    REFERENCE_PATTERN,
    check_reference,
    parse_reference,
)

MAX_SCORES = 1_000_000
"""Of one request: prompts times models."""


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be Unicode without lone surrogates") from None
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_check_unicode)]
# The pattern is for readers: the check's own message says more.
ScorerReference = Annotated[
    str,
    AfterValidator(check_reference),
    Field(json_schema_extra={"pattern": REFERENCE_PATTERN}),
]


class InferRequest(BaseModel):
    """Prompts and the models to score for each of them."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "dense_network/example",
                    "models_to_score": ["coder-small", "storyteller", "generalist"],
                    "prompts": ["What is Python?", "Tell me a story about a dog"],
                    "batch_size": 128,
                }
            ]
        },
    )

    model: ScorerReference = Field(
        description="The scorer, as type and name: `dense_network/NAME`."
    )
    models_to_score: Annotated[list[Text], Field(min_length=1)] = Field(
        description="Models that the scorer has learned to score; one that is named twice is "
        "scored once."
    )
    prompts: Annotated[list[Text], Field(min_length=1)] = Field(
        description="The prompts. One that is longer than the encoder's context is cut at its end. "
        f"Their number times that of the models is {MAX_SCORES:,} at most."
    )
    batch_size: int = Field(
        default=DEFAULT_BATCH_SIZE,
        ge=1,
        le=MAX_BATCH_SIZE,
        description="Prompts that run together, at most. Scores do not depend on it.",
    )

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        number = len(self.prompts) * len(self.models_to_score)
        if number > MAX_SCORES:
            raise ValueError(
                f"prompts times models_to_score must be {MAX_SCORES} at most; got {number}"
            )
        return self

    @property
    def name(self) -> str:
        """The scorer's name, without its type."""
        return parse_reference(self.model)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The models to score, each once, in the order in which they came."""
        return tuple(dict.fromkeys(self.models_to_score))
