"""The body of `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from api.openai.fields import CallBody
from common.embeddings import MAX_INPUT_TOKENS, MAX_INPUTS, Input

MAX_TOKEN_ID = 2**31 - 1
_FORMS = "a text, a list of texts, a list of token ids, or a list of lists of token ids"


def _readable(value: object) -> object:
    _read_inputs(value)
    return value


def _read_inputs(value: object) -> tuple[Input, ...]:
    """Any of the four forms as inputs; they may be empty still."""
    if isinstance(value, list) and not _are_ids(value):
        if len(value) > MAX_INPUTS:
            raise ValueError(f"must hold at most {MAX_INPUTS} inputs")
        _check_total(sum(len(each) for each in value if isinstance(each, list)))
        form = type(value[0])
        return tuple(_read(each, form, f"; input[{i}] is wrong") for i, each in enumerate(value))
    return () if value == [] else (_read(value, type(value), ""),)


def _are_ids(value: list[Any]) -> bool:
    return not value or type(value[0]) is int


def _read(value: Any, form: type, which: str) -> Input:
    if form not in (str, list) or type(value) is not form:
        raise ValueError(f"must be {_FORMS}, not several of these{which}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"must be Unicode without lone surrogates{which}") from None
        return value
    _check_total(len(value))
    # By type: `True` is an int to Python, and no token id. No loop here: there may be 300,000.
    if not set(map(type, value)) <= {int} or (value and not _are_in_range(value)):
        raise ValueError(f"must hold whole numbers from 0 where it holds token ids{which}")
    return tuple(value)


def _are_in_range(ids: list[int]) -> bool:
    return min(ids) >= 0 and max(ids) <= MAX_TOKEN_ID


def _check_total(num_tokens: int) -> None:
    """Before each of them is looked at, which takes as long as there are many."""
    if num_tokens > MAX_INPUT_TOKENS:
        raise ValueError(f"must have at most {MAX_INPUT_TOKENS} tokens in all; got {num_tokens}")


_TOKEN_ID = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
_IDS = {"type": "array", "items": _TOKEN_ID, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
Inputs = Annotated[
    Any,
    AfterValidator(_readable),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_INPUTS},
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MAX_INPUTS},
            ]
        }
    ),
]


class EmbeddingsRequest(CallBody):
    """What to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "my-embedder", "input": ["A dog.", "A cat."]}]}
    )

    input: Inputs = Field(
        description=f"{_FORMS[0].upper()}{_FORMS[1:]}: at most {MAX_INPUTS} inputs and "
        f"{MAX_INPUT_TOKENS} tokens in all. None may be empty, or longer than the model's context."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None,
        description="Numbers, or base64 of little-endian float32. Default: float.",
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="The model's own size, if it is given at all."
    )

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs, whatever form they came in."""
        return _read_inputs(self.input)
