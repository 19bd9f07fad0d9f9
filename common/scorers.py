"""Scorers, as gateway and worker both see them: their names, their cards, what a job asks of one.

Knows nothing about files, networks or Redis.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from tokenizers import Tokenizer

from common.errors import InvalidRequestError, ScorerNotFoundError

DENSE_NETWORK = "dense_network"
"""The one type of scorer there is, and the folder of SCORERS_DIR in which such scorers are."""
MAX_BATCH_SIZE = 1024
DEFAULT_BATCH_SIZE = 128
MAX_SHOWN_NAMES = 50
MAX_TOKEN_CHARS = 32
"""Of a token, on the average of a whole prompt; words and spaces have far fewer."""
DECIMALS = 6
"""Of a score that is shown: what fp32 tells, and no sum in another order changes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
REFERENCE_PATTERN = rf"^{DENSE_NETWORK}/{_NAME.pattern}$"
"""What `parse_reference` takes."""
_FORM = "letters, digits, '.', '_' and '-', the first a letter or a digit, 64 at most"


def check_name(name: str) -> str:
    """Check the name of a scorer, without its type; returns it.

    Raises:
        ValueError: It cannot be one; the message says what it is made of.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a scorer's name is made of {_FORM}; got {name[:80]!r}")
    return name


def parse_reference(text: str) -> str:
    """The name in `dense_network/NAME`, as requests name a scorer.

    Raises:
        ValueError: It is not of this form, or of a type that there is not.
    """
    model_type, slash, name = text.partition("/")
    if not slash or model_type != DENSE_NETWORK or not _NAME.fullmatch(name):
        raise ValueError(
            f"must be {DENSE_NETWORK}/NAME, the name made of {_FORM}; got {text[:80]!r}"
        )
    return name


def check_reference(text: str) -> str:
    """Check that a text is `dense_network/NAME`; returns it.

    Raises:
        ValueError: It is not.
    """
    parse_reference(text)
    return text


def reference(name: str) -> str:
    """The inverse of `parse_reference`."""
    return f"{DENSE_NETWORK}/{name}"


@dataclass(frozen=True, slots=True)
class ScorerCard:
    """What a worker publishes of a scorer that it has: all that a gateway needs to know of it.

    Attributes:
        name: Without its type.
        models: The candidates that it scores.
        encoder: Whose vectors it reads; of a path, the last part.
        served_by: The id of the model whose workers run it.
        context_length: Tokens of a prompt that it reads.
    """

    name: str
    models: tuple[str, ...]
    encoder: str
    served_by: str
    context_length: int

    def pack(self) -> str:
        """JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        values = json.loads(packed)
        return cls(**values | {"models": tuple(values["models"])})


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """What a job asks of a scorer; its prompts are the job's inputs.

    Attributes:
        scorer: Its name, without its type.
        models: To score, each once.
        batch_size: Prompts that run together, at most.
        context_length: Tokens of a prompt; what is behind them is cut off. None until the scorer
            was looked up.
    """

    scorer: str
    models: tuple[str, ...]
    batch_size: int = DEFAULT_BATCH_SIZE
    context_length: int | None = None

    def pack(self) -> str:
        """JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        values = json.loads(packed)
        return cls(**values | {"models": tuple(values["models"])})


@dataclass(frozen=True, slots=True)
class Routing:
    """Which model a request of `model: "auto"` went to, and why.

    Attributes:
        router: The scorer, as the request named it.
        candidate: The scorer's name for the model that was picked.
        model: The id of that model.
        scores: Of the candidates that are served.
        cost_weight: What a cost of 1 takes from a score.
        costs: Of the same candidates; empty where the weight is 0.
    """

    router: str
    candidate: str
    model: str
    scores: dict[str, float]
    cost_weight: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)

    def view(self) -> dict[str, Any]:
        """As answers show it."""
        return asdict(self)

    def pack(self) -> str:
        """JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        return cls(**json.loads(packed))


def why_unserved(name: str, encoder: str) -> str:
    """What to tell where no model that is served is a scorer's encoder."""
    return (
        f"Scorer '{reference(name)}' reads the vectors of '{encoder}', which is none of the models "
        "that are served"
    )


def answer_of(models: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """The scores as they are shown: by model, in the order of the prompts, rounded.

    Args:
        models: That were scored.
        rows: For each prompt the score of each model.
    """
    return {
        model: [round(row[index], DECIMALS) for row in rows] for index, model in enumerate(models)
    }


def not_found(name: str, param: str = "model") -> ScorerNotFoundError:
    """The error for a scorer that is not there."""
    return ScorerNotFoundError(f"Model '{reference(name)}' not found", param=param)


def check_candidates(name: str, known: Collection[str], wanted: Sequence[str]) -> None:
    """Check that a scorer can score all of some models.

    Raises:
        InvalidRequestError: There is one that it does not know.
    """
    unknown = [model for model in wanted if model not in known]
    if unknown:
        raise InvalidRequestError(
            f"models_to_score must name models that '{reference(name)}' knows: {_listed(known)}; "
            f"got {_listed([model[:80] for model in unknown])}.",
            param="models_to_score",
        )


def _listed(names: Collection[str]) -> str:
    shown = [repr(name) for name in names][:MAX_SHOWN_NAMES]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def prompt_ids(
    tokenizer: Tokenizer, prompts: Sequence[str], context_length: int
) -> tuple[tuple[int, ...], ...]:
    """The token ids of prompts for an encoder, with its special tokens.

    A prompt that is longer than the encoder's context is cut at its end; special tokens stay. What
    is so far behind that it could hardly be read is cut off before: encoding takes time.

    Args:
        tokenizer: The encoder's; it must not truncate.
        prompts: Any number of texts.
        context_length: Tokens that the encoder reads, at most.

    Raises:
        InvalidRequestError: A prompt has no token.
    """
    room = max(0, context_length - tokenizer.num_special_tokens_to_add(is_pair=False))
    texts = [prompt[: MAX_TOKEN_CHARS * context_length] for prompt in prompts]
    found = []
    # As a batch: `encode` holds the interpreter lock.
    for index, bare in enumerate(tokenizer.encode_batch(texts, add_special_tokens=False)):
        if len(bare.ids) > room:
            bare.truncate(room)
        ids = tokenizer.post_process(bare).ids
        if not ids:
            raise InvalidRequestError(
                f"prompts[{index}] has no token that the encoder could read.", param="prompts"
            )
        found.append(tuple(ids))
    return tuple(found)
