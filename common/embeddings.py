"""Embedding jobs: inputs, from what a client sent to token ids, and the vectors they end in.

One job has all inputs of a request. Gateway and worker check and encode them by the same
functions: the worker does it for jobs that were accepted before any worker had announced the model.
"""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tokenizers import Tokenizer

from common.errors import ContextLengthError, InvalidRequestError
from common.model_card import ModelCard

MAX_INPUTS = 2048
MAX_INPUT_TOKENS = 300_000
"""Of one job, all inputs together."""
_FLOAT_BYTES = 4

Input = str | tuple[int, ...]
"""A text as it came, or token ids."""


def pack_inputs(inputs: Sequence[Input]) -> str:
    """JSON: a list of texts and of lists of token ids.

    One input at a time, so that in a thread others get their turn in between.
    """
    packed = [json.dumps(each, separators=(",", ":"), ensure_ascii=False) for each in inputs]
    return f"[{','.join(packed)}]"


def unpack_inputs(packed: str) -> tuple[Input, ...]:
    """The inverse of `pack_inputs`."""
    return tuple(each if isinstance(each, str) else tuple(each) for each in json.loads(packed))


def count_tokens(inputs: Sequence[Input]) -> int | None:
    """Tokens of all inputs; None where some are texts still."""
    if any(isinstance(each, str) for each in inputs):
        return None
    return sum(map(len, inputs))


def encode_inputs(
    card: ModelCard, tokenizer: Tokenizer, inputs: Sequence[Input]
) -> tuple[tuple[int, ...], ...]:
    """The token ids of every input; texts get the model's special tokens, ids are left alone.

    Args:
        card: Of the model.
        tokenizer: The model's; it must not truncate.
        inputs: At least one.

    Raises:
        InvalidRequestError: There are too many inputs or tokens, an input has no token, or a token
            id is not the model's.
        ContextLengthError: An input is longer than the model's context.
    """
    check_count(inputs)
    texts = [each for each in inputs if isinstance(each, str)]
    encoded = iter(tokenizer.encode_batch(texts, add_special_tokens=True))
    found = tuple(tuple(next(encoded).ids) if isinstance(i, str) else i for i in inputs)
    for index, ids in enumerate(found):
        _check_ids(card, index, ids)
    total = sum(map(len, found))
    if total > MAX_INPUT_TOKENS:
        raise InvalidRequestError(
            f"input must have at most {MAX_INPUT_TOKENS} tokens in all; got {total}.", param="input"
        )
    return found


def check_count(inputs: Sequence[Input]) -> None:
    """Check that there is an input, and that there are not too many, and none of them is empty.

    Raises:
        InvalidRequestError: It is not so.
    """
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidRequestError(
            f"input must hold 1 to {MAX_INPUTS} inputs; got {len(inputs)}.", param="input"
        )
    for index, each in enumerate(inputs):
        if not each:
            raise InvalidRequestError(
                f"input[{index}] is empty: expected at least one token.", param="input"
            )


def _check_ids(card: ModelCard, index: int, ids: tuple[int, ...]) -> None:
    if not ids:
        raise InvalidRequestError(
            f"input[{index}] has no token that '{card.model}' could read.", param="input"
        )
    assert card.context_length is not None, "who encodes inputs knows how long they may be"
    if len(ids) > card.context_length:
        raise ContextLengthError(
            f"input[{index}] has {len(ids)} tokens; the context length of '{card.model}' is "
            f"{card.context_length}.",
            param="input",
        )
    for token_id in (min(ids), max(ids)):
        if not 0 <= token_id < card.vocab_size:
            raise InvalidRequestError(
                f"input[{index}] must hold tokens of '{card.model}', from 0 to "
                f"{card.vocab_size - 1}; got {token_id}.",
                param="input",
            )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of a job, in the order of its inputs.

    Attributes:
        size: Numbers of each vector.
        data: Base64 of all numbers as little-endian float32, one vector after another.
    """

    size: int
    data: str

    @classmethod
    def of_bytes(cls, size: int, values: bytes) -> Self:
        """Pack little-endian float32 numbers."""
        return cls(size, base64.b64encode(values).decode("ascii"))

    def pack(self) -> str:
        """As a field of the job's record: the size, and the numbers."""
        return f"{self.size} {self.data}"

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        size, data = packed.split(" ", 1)
        return cls(int(size), data)

    def floats(self) -> list[list[float]]:
        """The vectors as numbers."""
        values = array("f", base64.b64decode(self.data))
        if sys.byteorder == "big":
            values.byteswap()
        return [values[i : i + self.size].tolist() for i in range(0, len(values), self.size)]

    def base64s(self) -> list[str]:
        """The vectors, each as base64 of little-endian float32 numbers."""
        values, length = base64.b64decode(self.data), _FLOAT_BYTES * self.size
        starts = range(0, len(values), length)
        return [base64.b64encode(values[i : i + length]).decode("ascii") for i in starts]
