"""The bodies of `/tokenize`, `/detokenize` and their batch forms, and of their answers.

Source:
    The requests and responses of `000_dd3c37f7e9e397a0.txt`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import ModelChoice, Text, TokenId

MAX_TEXTS = 1024
MAX_TOKEN_IDS = 262_144


class _EncodeRequest(ModelChoice):
    add_special_tokens: bool = Field(
        default=False,
        description="Add the tokens that the model's tokenizer puts around a text, as `/generate` "
        "does with a `raw` prompt.",
    )


class TokenizeRequest(_EncodeRequest):
    """A text to be cut into tokens."""

    text: Text = Field(examples=["Hello, world!"])


class BatchTokenizeRequest(_EncodeRequest):
    """Texts to be cut into tokens."""

    texts: list[Text] = Field(
        min_length=1,
        max_length=MAX_TEXTS,
        fail_fast=True,
        examples=[["First text", "Second text", "Third text"]],
    )


class DetokenizeRequest(ModelChoice):
    """Tokens to be put together."""

    token_ids: list[TokenId] = Field(
        max_length=MAX_TOKEN_IDS, fail_fast=True, examples=[[43, 72, 79]]
    )
    skip_special_tokens: bool = Field(
        default=False, description="Leave out tokens such as the end of a turn."
    )


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TokensAnswer(_Answer):
    """A text as tokens."""

    token_ids: list[int] = Field(examples=[[43, 72, 79]])
    num_tokens: Annotated[int, Field(examples=[3])]


class BatchTokensAnswer(_Answer):
    """Texts as tokens, in the order of the request."""

    results: list[TokensAnswer]


class TextAnswer(_Answer):
    """Tokens as a text."""

    text: str = Field(examples=["Hello, world!"])
