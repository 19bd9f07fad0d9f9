"""Functions for a model whose chat template knows nothing of them: told in a system message.

The conversation's calls and answers are told as texts, too: an assistant's calls as it should
write them, a tool's answer as a user's message in `<tool_response>` tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.chat_template import joined
from common.schemas import Message

_HEAD = """You can call functions. These are their names, what they do, and the JSON schemas of \
their arguments:
"""
_TAIL = """
To call a function, answer with its name and arguments as JSON between tags, and with nothing \
after it; for several calls, one after another:
<tool_call>
{"name": "the function's name", "arguments": {"an argument": "its value"}}
</tool_call>
The results come in <tool_response> tags. Where no function helps, answer in plain text."""


def describe(tools: Sequence[Mapping[str, Any]]) -> str:
    """What the model is told of its functions.

    Args:
        tools: In OpenAI's form, as `Tool.for_template` makes them.
    """
    return _HEAD + "".join(f"{_dump(tool['function'])}\n" for tool in tools) + _TAIL


def as_texts(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    *,
    takes_system: bool,
) -> list[Message]:
    """A conversation without anything but texts of system, user and assistant.

    Args:
        messages: From `normalize_messages`; not modified.
        tools: To be described, if any.
        takes_system: Whether there may be a system message; else the first user message begins
            with the description.
    """
    told = [_as_text(message) for message in messages]
    merged: list[Message] = []
    for before, message, came in zip([None, *messages], told, messages, strict=False):
        # Several answers to one assistant message are one turn of the user.
        if came["role"] == "tool" and before is not None and before["role"] == "tool":
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return _with_description(merged, describe(tools), takes_system) if tools else merged


def _with_description(messages: list[Message], text: str, takes_system: bool) -> list[Message]:
    role = "system" if takes_system else "user"
    at = next((i for i, message in enumerate(messages) if message["role"] == role), None)
    if at is None:
        return [{"role": role, "content": text}, *messages]
    held = _text_of(messages[at])
    content = f"{held}\n\n{text}" if takes_system else f"{text}\n\n{held}"
    return [*messages[:at], {**messages[at], "content": content}, *messages[at + 1 :]]


def _as_text(message: Message) -> Message:
    if message["role"] == "tool":
        response = {"name": message["name"], "content": _text_of(message)}
        return {"role": "user", "content": f"<tool_response>\n{_dump(response)}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = [f"<tool_call>\n{_dump(call['function'])}\n</tool_call>" for call in _calls(message)]
    content = "\n".join(filter(None, [_text_of(message), *calls]))
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": content}


def _calls(message: Message) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = message["tool_calls"]
    return calls


def _text_of(message: Message) -> str:
    content = message["content"]
    return content if isinstance(content, str) else joined(content)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
