"""The pair of a question and its answer, and how people word a question.

Knows no question itself.
"""
# ruff: noqa: SIM905 - a row of plain words reads better than a row of quotes

import random
from collections.abc import Callable
from typing import NamedTuple

from models.recipe.grammar import expand, tidy

_PLEASE = ("", "", "", "", "please ", "can you ", "could you ", "I want you to ")
_VERBS = frozenset(
    "explain tell describe define write make give show list name count return answer summarize "
    "compare help translate".split()
)


class Exchange(NamedTuple):
    """One question and its answer.

    Attributes:
        question: What the user writes.
        answer: What the model shall write.
    """

    question: str
    answer: str


Generator = Callable[[random.Random], Exchange]


def ask(rng: random.Random, *texts: str, **slots: str) -> str:
    """Draw one wording; a request that starts with a verb may get a polite start.

    Args:
        rng: Source of the draws.
        *texts: Templates, one for each wording.
        **slots: Values of the templates' slots.

    Returns:
        What the user writes.
    """
    text = expand(rng.choice(texts), slots, rng)
    first = text.split()[0].lower()
    if text.endswith("?") or first not in _VERBS or rng.random() < 0.5:
        return text
    start = rng.choice(_PLEASE)
    mark = "?" if start.startswith(("can", "could")) else rng.choice(("", "", "."))
    body = text if not start else text[0].lower() + text[1:]
    return tidy(start + body) + mark


def split_key(key: str, rng: random.Random) -> str:
    """Draw one of the names that `snippets` parts by bars.

    Args:
        key: Names parted by `|`.
        rng: Source of the draws.

    Returns:
        One name.
    """
    return rng.choice(key.split("|"))
