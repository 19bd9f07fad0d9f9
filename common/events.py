"""The events of a job's stream, and how they are packed.

Knows nothing about Redis commands: `common/event_stream.py` writes and reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from common.schemas import JobStatus, dump, packed_logprobs
from common.token_logprobs import TokenLogprobs

NO_TOKEN_ID = -1
"""Stands for the id of a piece of text that came from another server: it tells texts alone. Each
piece counts as one token wherever tokens are counted by position."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Newly committed tokens of one choice.

    Attributes:
        position: Index of the first of them among the choice's tokens.
        texts: One for each id; empty where the text is held back for a later one.
        logprobs: One for each id where they were asked for, else none.
    """

    position: int
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    choice: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()

    def pack(self) -> str:
        """Short JSON: `{"c", "p", "i", "t"}`, and `"l"` where there are log-probabilities."""
        event = {"c": self.choice, "p": self.position, "i": self.token_ids, "t": self.texts}
        return dump(event | packed_logprobs("l", self.logprobs))


@dataclass(frozen=True, slots=True)
class RestartEvent:
    """All token events before this one are void: the job begins again from nothing.

    Packed as `{"r": 1}`, by the script that restarts the job.
    """


@dataclass(frozen=True, slots=True)
class EndEvent:
    """The last event of a job.

    Attributes:
        tails: For each choice, the text that was held back until the end.

    Packed as `{"s", "t"}`, by the script that ends the job.
    """

    status: JobStatus
    tails: tuple[str, ...] = ()


Event = TokenEvent | RestartEvent | EndEvent


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event with its place in the job's stream: 1, 2, 3, ..."""

    eid: int
    event: Event


def unpack_event(packed: str) -> Event:
    """Read an event from its packed form."""
    values = json.loads(packed)
    if "r" in values:
        return RestartEvent()
    if "s" in values:
        return EndEvent(JobStatus(values["s"]), tuple(values["t"]))
    logprobs = tuple(TokenLogprobs.unpack(each) for each in values.get("l", ()))
    return TokenEvent(values["p"], tuple(values["i"]), tuple(values["t"]), values["c"], logprobs)
