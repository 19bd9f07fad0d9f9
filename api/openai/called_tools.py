"""The calls of tools in one choice of a chat, in OpenAI's shapes, beside the text around them."""

from __future__ import annotations

import hashlib
from typing import Any

from common.tool_calls.families import Family
from common.tool_calls.parser import (
    ArgumentsDelta,
    CallStart,
    ContentDelta,
    Event,
    ToolCallParser,
)

ID_CHARS = 24


class CalledTools:
    """Reads one choice, whole or piece by piece.

    Args:
        answer_id: Of the answer, for the ids of its calls: the same for the same answer.
        choice: Its index.
        family: How the model writes its calls; None where it was told of no tools.
    """

    def __init__(self, answer_id: str, choice: int, family: Family | None) -> None:
        self._name = f"{answer_id}:{choice}"
        self._parser = None if family is None else ToolCallParser(family)

    def message(self, text: str) -> dict[str, Any]:
        """The content and the calls of a whole text."""
        content, calls = "", list[dict[str, Any]]()
        for event in self._events(text, is_last=True):
            if isinstance(event, ContentDelta):
                content += event.text
            elif isinstance(event, CallStart):
                calls.append(self._call(event))
            else:
                calls[event.index]["function"]["arguments"] += event.text
        if not calls:
            return {"content": content, "refusal": None}
        return {"content": content or None, "refusal": None, "tool_calls": calls}

    def deltas(self, text: str, *, is_last: bool) -> list[dict[str, Any]]:
        """What a choice's deltas tell once this text has come."""
        return [self._delta(event) for event in self._events(text, is_last=is_last)]

    def finish_reason(self, reason: str) -> str:
        """The finish reason, as OpenAI has it; one that was cut off stays so."""
        has_calls = self._parser is not None and self._parser.num_calls > 0
        return "tool_calls" if has_calls and reason == "stop" else reason

    def _events(self, text: str, *, is_last: bool) -> list[Event]:
        if self._parser is None:
            return [ContentDelta(text)] if text else []
        return [*self._parser.feed(text), *(self._parser.close() if is_last else ())]

    def _delta(self, event: Event) -> dict[str, Any]:
        if isinstance(event, ContentDelta):
            return {"content": event.text}
        if isinstance(event, ArgumentsDelta):
            call = {"index": event.index, "function": {"arguments": event.text}}
        else:
            call = {"index": event.index, **self._call(event)}
        return {"tool_calls": [call]}

    def _call(self, start: CallStart) -> dict[str, Any]:
        digest = hashlib.sha256(f"{self._name}:{start.index}".encode()).hexdigest()
        return {
            "id": f"call_{digest[:ID_CHARS]}",
            "type": "function",
            "function": {"name": start.name, "arguments": ""},
        }
