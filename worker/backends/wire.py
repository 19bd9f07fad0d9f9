"""A wire: how one kind of server is asked to generate, and how its answer is read.

Knows nothing about queues, retries or other servers: `upstream_choice` asks again, and
`upstream_pool` decides whom. Everything that goes wrong is raised as one of the errors below.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from common.sampling import SamplingSpec
from common.schemas import Prompt, TokenUsage

MAX_SEED = 2**31 - 1
"""The largest that every server takes."""
MAX_MESSAGE_CHARS = 500
"""Of what a server says of an error."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a choice of a job.

    Attributes:
        model: What the servers call it.
        sampling: `max_tokens` is set; `n` and `seed` are those of the whole job, not to be sent.
        seed: Of this choice, 0 to `MAX_SEED`.
        dialect: Of the server that is asked, as its `probe` told.
    """

    model: str
    prompt: Prompt
    sampling: SamplingSpec
    seed: int
    dialect: str

    @property
    def max_tokens(self) -> int:
        """Tokens to generate at most."""
        assert self.sampling.max_tokens is not None, "the task decides it"
        return self.sampling.max_tokens


@dataclass(frozen=True, slots=True)
class Durations:
    """What a server measured of an answer, in seconds; None where it does not tell."""

    prefill_s: float | None = None
    decode_s: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What a server sent at once: text, or how the answer ended, or both.

    Attributes:
        text: As it came, or nothing, as a sign of life; a character may be cut in two between
            UTF-16 surrogates.
        finish_reason: `stop`, `length` or `content_filter`; the others are None.
        usage: Tokens as the server counts them, and of those of the prompt that it had before
            `cached_tokens`; it may come after the finish reason.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: TokenUsage | None = None
    cached_tokens: int = 0
    durations: Durations | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What a server tells of itself.

    Attributes:
        models: The names of its models, each with its context length where it tells; None where it
            does not list them.
        dialect: The wire's own name for what kind of server it is.
    """

    models: Mapping[str, int | None] | None = None
    dialect: str = ""

    def context_length(self, model: str) -> int | None:
        """Of a model, where it is told."""
        return (self.models or {}).get(model)


class UpstreamRefusal(Exception):
    """The request itself is at fault: no server would run it.

    Attributes:
        message: What the server says, cut to `MAX_MESSAGE_CHARS`.
        is_too_long: Prompt and output do not fit into the model's context.
    """

    def __init__(self, message: str, *, is_too_long: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.is_too_long = is_too_long


class UpstreamFailure(Exception):
    """A server did not run the request; another one, or a later attempt, may.

    Attributes:
        message: In a few words, without an address: `it is away`, `it answered 503`.
        is_away: Nobody answers there, or not with what such a server says: it is ill until a probe
            says otherwise.
        is_denied: Only an operator can help: it refuses our key, or is too old.
        is_missing: It has no such model, which goes with `is_denied`.
        retry_after_s: It asks to be let alone for so long.
    """

    def __init__(
        self,
        message: str,
        *,
        is_away: bool = False,
        is_denied: bool = False,
        is_missing: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.is_away = is_away
        self.is_denied = is_denied
        self.is_missing = is_missing
        self.retry_after_s = retry_after_s


class Wire(Protocol):
    """One kind of server."""

    def parameters(self, dialect: str) -> frozenset[str]:
        """What servers of a dialect honour, by the names in `common.parameters`."""
        ...

    async def probe(self, client: httpx.AsyncClient, base_url: str, model: str) -> Served:
        """Ask a server how it is.

        Args:
            client: Closed by its owner; its time limits hold.
            base_url: Where the server is.
            model: The one that jobs will be for.

        Raises:
            UpstreamFailure: It is away, ill, or refuses our key.
        """
        ...

    def stream(self, client: httpx.AsyncClient, base_url: str, ask: Ask) -> AsyncGenerator[Piece]:
        """The answer to a request, piece by piece; closing it closes the request.

        Raises:
            UpstreamRefusal: The request is at fault.
            UpstreamFailure: The server is, or the answer broke off.
        """
        ...
