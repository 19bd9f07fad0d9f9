"""A response's output: the items that a text is read as, whole or while it grows.

Knows nothing about numbers, jobs or streams: each call returns the events that tell what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from common.tool_calls.families import Family
from common.tool_calls.parser import ArgumentsDelta, CallStart, ContentDelta, ToolCallParser
from common.tool_calls.parser import Event as ParsedEvent

CALL_ID_CHARS = 24

Event = dict[str, Any]
"""An event of a stream, still without its number."""
Logprob = dict[str, Any]


class Output:
    """Makes messages and calls of one answer's text.

    Args:
        job_id: For the ids of items and calls: the same for the same answer.
        family: How the model writes its calls; None where it was told of no tools.

    Attributes:
        items: Those that are complete; all of them, once it is closed.
    """

    def __init__(self, job_id: str, family: Family | None) -> None:
        self.items: list[dict[str, Any]] = []
        self._job_id = job_id
        self._parser = None if family is None else ToolCallParser(family)
        self._open: dict[str, Any] | None = None
        self._text = ""  # of the item that is open
        self._logprobs: list[Logprob] = []
        self._untold: list[Logprob] = []  # no event has told these yet

    def feed(self, text: str, logprobs: Sequence[Logprob] = ()) -> list[Event]:
        """Read on."""
        self._logprobs += logprobs
        self._untold += logprobs
        if self._parser is not None:
            return self._events_of(self._parser.feed(text))
        return self._events_of([ContentDelta(text)] if text or logprobs else [])

    def close(self, status: str, *, is_answer: bool) -> list[Event]:
        """The text has ended.

        Args:
            status: Of the item that it ended in: `completed` or `incomplete`.
            is_answer: Where there is no text at all, that is an answer, an empty one.
        """
        events = [] if self._parser is None else self._events_of(self._parser.close())
        if self._open is None and not self.items and is_answer:
            events += self._open_message()
        return events + self._close_item(status)

    def _events_of(self, parsed: Sequence[ParsedEvent]) -> list[Event]:
        events = []
        for each in parsed:
            if isinstance(each, CallStart):
                events += self._close_item("completed") + self._open_call(each)
            elif isinstance(each, ArgumentsDelta):
                events.append(self._delta("response.function_call_arguments.delta", each.text))
            else:
                events += self._content(each)
        return events

    def _content(self, content: ContentDelta) -> list[Event]:
        events = []
        if self._open is None or self._open["type"] != "message":
            events = self._close_item("completed") + self._open_message()
        delta = self._delta("response.output_text.delta", content.text, content_index=0)
        delta["logprobs"], self._untold = self._untold, []
        return [*events, delta]

    def _delta(self, kind: str, text: str, **more: Any) -> Event:
        self._text += text
        return self._event(kind, **more, delta=text)

    def _event(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        place = {"item_id": self._open["id"], "output_index": len(self.items)}
        return {"type": kind, **place, **fields}

    def _open_message(self) -> list[Event]:
        item_id = f"msg_{self._job_id}-{len(self.items)}"
        message = {"id": item_id, "type": "message", "role": "assistant", "content": []}
        added = self._open_item(message)
        part = self._event("response.content_part.added", content_index=0, part=_part("", []))
        return [added, part]

    def _open_call(self, start: CallStart) -> list[Event]:
        item_id = f"fc_{self._job_id}-{len(self.items)}"
        digest = hashlib.sha256(item_id.encode()).hexdigest()
        call_id = f"call_{digest[:CALL_ID_CHARS]}"
        call = {"id": item_id, "type": "function_call", "call_id": call_id, "name": start.name}
        return [self._open_item({**call, "arguments": ""})]

    def _open_item(self, item: dict[str, Any]) -> Event:
        self._open, self._text = item, ""
        return {
            "type": "response.output_item.added",
            "output_index": len(self.items),
            "item": {**item, "status": "in_progress"},
        }

    def _close_item(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        if self._open["type"] == "message":
            events, item = self._message_done()
        else:
            events, item = self._call_done()
        item["status"] = status
        index = len(self.items)
        self.items.append(item)
        self._open = None
        done = {"type": "response.output_item.done", "output_index": index, "item": item}
        return [*events, done]

    def _message_done(self) -> tuple[list[Event], dict[str, Any]]:
        # Which tokens are whose cannot be told where there are calls, too.
        is_all = not self.items and (self._parser is None or not self._parser.num_calls)
        part = _part(self._text, self._logprobs if is_all else [])
        told = {"content_index": 0, "text": self._text, "logprobs": part["logprobs"]}
        events = [
            self._event("response.output_text.done", **told),
            self._event("response.content_part.done", content_index=0, part=part),
        ]
        assert self._open is not None
        return events, {**self._open, "content": [part]}

    def _call_done(self) -> tuple[list[Event], dict[str, Any]]:
        assert self._open is not None
        arguments = {"arguments": self._text, "name": self._open["name"]}
        events = [self._event("response.function_call_arguments.done", **arguments)]
        return events, {**self._open, "arguments": self._text}


def _part(text: str, logprobs: list[Logprob]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
