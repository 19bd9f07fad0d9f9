"""What a saved scorer's `config.json` says. No tensors here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import ScorerError
from common.scorers import DENSE_NETWORK

VERSION = 1

Size = Annotated[int, Field(ge=1, le=65_536)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class EncoderConfig(_Part):
    """The model whose vectors the scorer reads.

    Attributes:
        name: As `MODEL_NAME` names models.
        revision: Of its files, and its pooling (`worker.engine.embedder.Embedder`).
        precision: Of its weights, when the scorer was trained.
        vector_size: Numbers of a vector.
        context_length: Tokens of a prompt that it reads; what is behind them is cut off.
    """

    name: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(min_length=1)]
    precision: str
    vector_size: Size
    context_length: Annotated[int, Field(ge=1)]


class NetworkConfig(_Part):
    """The sizes of the network's layers."""

    model_size: Size = 16
    hidden_size: Size = 128


class ScorerConfig(_Part):
    """A scorer.

    Attributes:
        version: Of the form of its files.
        models: The candidates, in the order of their vectors.
        weights_sha256: Of the file of weights that belongs to it.
    """

    model_type: Literal["dense_network"] = DENSE_NETWORK  # type: ignore[assignment]
    version: Literal[1] = VERSION  # type: ignore[assignment]
    encoder: EncoderConfig
    models: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    network: NetworkConfig = NetworkConfig()
    weights_sha256: str = ""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        if len(set(self.models)) != len(self.models):
            raise ValueError("models must all be different")
        return self


def read_config(text: bytes) -> ScorerConfig:
    """Read the content of `config.json`.

    Raises:
        ScorerError: It is not JSON, or something in it is wrong; the message is one line.
    """
    try:
        return ScorerConfig.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        raise ScorerError(
            f"config.json is wrong: {place + ': ' if place else ''}{message}"
        ) from None
