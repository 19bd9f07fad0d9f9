"""How likely a generated token was, by the model alone, and which ones were likelier.

In records and events a flat list of numbers stands for it, `[logprob, id, logprob, id, logprob]`:
short, and never empty, which the JSON of Lua cannot tell from an empty object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of the model's own distribution, before penalties and temperature.

    Attributes:
        logprob: Of the token, in nats; finite, and of 14 digits at most, which is what Lua keeps
            where it puts a result together.
        top: The ids of the likeliest tokens with theirs, best first, as many as were asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def pack(self) -> list[float]:
        """A flat list."""
        return [self.logprob, *(number for pair in self.top for number in pair)]

    @classmethod
    def unpack(cls, packed: Sequence[float]) -> Self:
        """The inverse of `pack`."""
        logprob, *rest = packed
        ids, values = map(int, rest[::2]), map(float, rest[1::2])
        return cls(float(logprob), tuple(zip(ids, values, strict=True)))

    def view(self, token_id: int) -> dict[str, Any]:
        """What a client sees of it.

        Args:
            token_id: The token.
        """
        top = [{"token_id": other, "logprob": logprob} for other, logprob in self.top]
        return {"token_id": token_id, "logprob": self.logprob, "top_logprobs": top}
