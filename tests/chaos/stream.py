"""What a client makes of an event stream: frames out of bytes, and one text out of frames.

The parser keeps to the browser's rules: an event counts when its blank line has come, not before.

Source:
    HTML Living Standard, section 9.2.6, Interpreting an event stream.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
DEFAULT_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One event.

    Attributes:
        event_id: None where the event has none of its own.
    """

    event_id: str | None
    data: dict[str, Any]


class SseParser:
    """Bytes of one connection in, complete events out.

    Attributes:
        retry_s: Seconds to wait before the next connection, where the server has said so.
    """

    def __init__(self) -> None:
        self.retry_s: float | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = ""
        self._event_id: str | None = None
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take bytes as they came; returns the events that they completed."""
        self._rest += self._decoder.decode(chunk)
        *lines, self._rest = self._rest.split("\n")
        frames = [self._line(line.removesuffix("\r")) for line in lines]
        return [frame for frame in frames if frame is not None]

    def _line(self, line: str) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id":
            self._event_id = value
        elif name == "retry" and value.isdecimal():
            self.retry_s = int(value) / 1000
        return None

    def _dispatch(self) -> Frame | None:
        event_id, data = self._event_id, "\n".join(self._data)
        self._event_id, self._data = None, []
        return Frame(event_id, json.loads(data)) if data else None


@dataclass(frozen=True, slots=True)
class Arrival:
    """When text came to a watcher, and how much of it it had then."""

    at_s: float
    num_letters: int


@dataclass
class StreamText:
    """What one watcher has of one job, over all its connections.

    Attributes:
        text: All `token`s, put together; a frame with `snapshot` replaced what was before it.
        last_event_id: To resume with; empty before the first.
        end: The data of the last event, once it came.
        is_closed: The server wants no more connections of this watcher.
        arrivals: One for each frame that brought text.
        faults: What no stream may do, in words.
    """

    text: str = ""
    last_event_id: str = ""
    end: dict[str, Any] | None = None
    is_closed: bool = False
    arrivals: list[Arrival] = field(default_factory=list)
    num_snapshots: int = 0
    faults: list[str] = field(default_factory=list)

    def apply(self, frame: Frame, at_s: float) -> None:
        """Take the next frame, as it came at a moment of the run."""
        data = frame.data
        if self.end is not None:
            self.faults.append(f"an event after the end: {data}")
            return
        is_snapshot = bool(data.get("snapshot"))
        if frame.event_id is not None:
            self._note_id(frame.event_id, is_snapshot=is_snapshot)
        if is_snapshot:
            self.text = ""
            self.num_snapshots += 1
        token = data.get("token") or ""
        self.text += token
        if token:
            if frame.event_id is None:
                self.faults.append(f"text in an event without an id: {data}")
            self.arrivals.append(Arrival(at_s, len(self.text)))
        if data["status"] in FINAL:
            self.end = data
            if frame.event_id is None:
                self.faults.append("the last event has no id")

    def _note_id(self, event_id: str, *, is_snapshot: bool) -> None:
        if not event_id.isdecimal():
            self.faults.append(f"an event id that is no number: {event_id!r}")
        elif self.last_event_id and not is_snapshot and int(event_id) <= int(self.last_event_id):
            self.faults.append(f"event {event_id} came after event {self.last_event_id}")
        self.last_event_id = event_id
