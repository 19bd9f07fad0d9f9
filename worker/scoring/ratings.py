"""Reads ratings: JSON Lines with `prompt`, `model` and `score`, how well the model answered.

What is wrong is told with the number of its line. Knows nothing about vectors or networks.

Shape suffixes: P = prompts; M = candidate models.
"""

from __future__ import annotations

import codecs
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_SHOWN_PROBLEMS = 10
LEAST_MODELS = 2
LEAST_PROMPTS = 5
MAX_MODEL_CHARS = 200
FIELDS = ("prompt", "model", "score")


class RatingsError(ValueError):
    """The ratings cannot be learned from; the message has a line for each problem."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """What was rated.

    Attributes:
        prompts: All different, in the order in which they came.
        models: All different, in the order in which they came.
        scores_PM: fp32 in 0..1; NaN where a model was not rated for a prompt.
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    scores_PM: Tensor


def read_ratings(path: Path) -> Ratings:
    """Read a file of ratings, `-` for stdin; several of a prompt and model count as their mean.

    Raises:
        RatingsError: It cannot be read, or rows are wrong, or there are too few.
    """
    sums: dict[tuple[str, str], tuple[float, int]] = {}
    problems: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        try:
            row = _row(line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if row is not None:
            prompt, model, score = row
            total, count = sums.get((prompt, model), (0.0, 0))
            sums[prompt, model] = total + score, count + 1
    if problems:
        raise RatingsError("\n".join(_shortened(problems)))
    return _ratings(sums)


def _lines(path: Path) -> list[bytes]:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise RatingsError(f"{path} cannot be read: {error.strerror}") from error
    return content.removeprefix(codecs.BOM_UTF8).split(b"\n")


def _row(line: bytes) -> tuple[str, str, float] | None:
    """One rating; None of an empty line."""
    if not line.strip():
        return None
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8: {error.reason} at byte {error.start + 1}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"no valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with {', '.join(FIELDS)}; got {type(row).__name__}")
    missing = [field for field in FIELDS if field not in row]
    if missing:
        raise ValueError(f"{missing[0]} is missing; expected {', '.join(FIELDS)}")
    model = _text("model", row["model"])
    if len(model) > MAX_MODEL_CHARS:
        raise ValueError(f"model must have {MAX_MODEL_CHARS} characters at most; got {len(model)}")
    return _text("prompt", row["prompt"]), model, _score(row["score"])


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} must be a text that is not empty; got {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{field} must be Unicode without lone surrogates") from None
    return value


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"score must be a number from 0 to 1; got {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _shortened(problems: list[str]) -> list[str]:
    rest = len(problems) - MAX_SHOWN_PROBLEMS
    return problems[:MAX_SHOWN_PROBLEMS] + ([f"and {rest} more lines"] if rest > 0 else [])


def _ratings(sums: dict[tuple[str, str], tuple[float, int]]) -> Ratings:
    prompts = list(dict.fromkeys(prompt for prompt, _ in sums))
    models = list(dict.fromkeys(model for _, model in sums))
    if len(models) < LEAST_MODELS:
        named = f": {models[0]!r}" if models else ""
        raise RatingsError(f"expected ratings of at least {LEAST_MODELS} models{named}; "
                           f"got {len(models)}")  # fmt: skip
    if len(prompts) < LEAST_PROMPTS:
        raise RatingsError(
            f"expected at least {LEAST_PROMPTS} different prompts, some of which are held out; "
            f"got {len(prompts)}"
        )
    scores_PM = torch.full((len(prompts), len(models)), torch.nan)
    rows, columns = _indices(prompts), _indices(models)
    for (prompt, model), (total, count) in sums.items():
        scores_PM[rows[prompt], columns[model]] = total / count
    return Ratings(tuple(prompts), tuple(models), scores_PM)


def _indices(names: list[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}
