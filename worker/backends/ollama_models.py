"""What an Ollama server tells of itself and of its models.

Source:
    https://github.com/ollama/ollama: docs/api.md, api/types.go, server/routes.go (v0.33).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.model_entries import ollama_id
from worker.backends.wire import UpstreamFailure

OLDEST = (0, 12, 6)
"""Older servers cut a prompt that is too long and say nothing; from here on they can be told not
to (`truncate`)."""
HONOURS_PENALTIES = (0, 30, 0)
"""Before, of the two engines that ran models one took no notice of penalties."""
UNKNOWN = (0, 0, 0)
"""A server that somebody built: it counts as new."""
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model in the server's list.

    Attributes:
        name: As the server calls it, with its tag.
        digest: Another one where the model has changed.
        generates: Whether it can; None: the list does not tell.
    """

    name: str
    digest: str
    generates: bool | None

    @property
    def id(self) -> str:
        """What it is called here."""
        return ollama_id(self.name)


@dataclass(frozen=True, slots=True)
class Shown:
    """A model in detail.

    Attributes:
        generates: Whether it can; else it makes embeddings or pictures.
        trained_length: Tokens of context that the model can have at most.
        num_ctx: Those that its own parameters give it.
        stop: Texts at which its own parameters end an answer. A request's would replace them.
    """

    generates: bool = True
    trained_length: int | None = None
    num_ctx: int | None = None
    stop: tuple[str, ...] = ()

    def context_length(self, wanted: int | None, loaded: int | None) -> int | None:
        """Tokens that prompt and output may have together, as far as it is known.

        Args:
            wanted: What requests ask for (`num_ctx`).
            loaded: What the server tells of the model in its memory.
        """
        # Until it is loaded nobody knows what the server gives a model by default.
        length = wanted or loaded or self.num_ctx or self.trained_length
        if length is None or self.trained_length is None:
            return length
        return min(length, self.trained_length)


def version_of(body: Any) -> Version:
    """The answer of `/api/version`.

    Raises:
        UpstreamFailure: It is not what an Ollama server says.
    """
    try:
        found = _VERSION.match(str(body["version"]))
    except (TypeError, KeyError) as error:
        raise UpstreamFailure("it is no Ollama server", is_away=True) from error
    if found is None:
        return UNKNOWN
    major, minor, patch = map(int, found.groups())
    return major, minor, patch


def listed_of(body: Any) -> list[Listed]:
    """The answer of `/api/tags`.

    Raises:
        UpstreamFailure: It is not what an Ollama server says.
    """
    try:
        return [
            Listed(str(each["name"]), str(each.get("digest", "")), _generates(each))
            for each in body["models"] or ()
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise UpstreamFailure("its list of models cannot be read", is_away=True) from error


def lengths_of(body: Any) -> dict[str, int]:
    """The answer of `/api/ps`: the context of each model that is loaded, by id."""
    try:
        pairs = [(ollama_id(each["name"]), each.get("context_length")) for each in body["models"]]
    except (TypeError, KeyError, AttributeError):
        return {}  # it is worth knowing, and no more
    return {name: length for name, length in pairs if isinstance(length, int) and length > 0}


def shown_of(body: Any) -> Shown:
    """The answer of `/api/show`.

    Raises:
        UpstreamFailure: It is not what an Ollama server says.
    """
    try:
        info: Mapping[str, Any] = body.get("model_info") or {}
        parameters = _parameters(str(body.get("parameters") or ""))
        generates = _generates(body)
    except (AttributeError, TypeError) as error:
        raise UpstreamFailure("what it tells of its model cannot be read") from error
    num_ctx = parameters.get("num_ctx", [""])[-1]
    return Shown(
        generates=generates is not False,
        trained_length=_trained_length(info),
        num_ctx=int(num_ctx) if num_ctx.isdecimal() else None,
        stop=tuple(parameters.get("stop", ())),
    )


def _generates(body: Mapping[str, Any]) -> bool | None:
    capabilities = body.get("capabilities")
    return "completion" in capabilities if isinstance(capabilities, list) else None


def _trained_length(info: Mapping[str, Any]) -> int | None:
    own = info.get(f"{info.get('general.architecture')}.context_length")
    others = (value for name, value in info.items() if name.endswith(".context_length"))
    found = own if own is not None else next(others, None)
    return found if isinstance(found, int) and found > 0 else None


def _parameters(text: str) -> dict[str, list[str]]:
    """Each parameter's values, from lines of a name and a value that may be quoted."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        found.setdefault(name, []).append(_unquoted(value.strip()))
    return found


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(ast.literal_eval(text))  # Go's quotes and escapes are Python's, too
    except (ValueError, SyntaxError):
        return text.strip('"')
