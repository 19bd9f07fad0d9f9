"""The items of a response's input: checked, kept, and made into chat messages.

Items are kept as `GET /v1/responses/{id}/input_items` lists them. What a message may hold is for
`common.chat_messages` to say; its errors are put in terms of the items here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.chat_messages import normalize_messages
from common.errors import InvalidRequestError
from common.schemas import Message

Item = dict[str, Any]

MAX_ITEMS = 4096
EARLIER = "previous_response_id"
"""The field that brings the items of an earlier response."""
_KINDS = ("message", "function_call", "function_call_output")
_FIELDS = {
    "message": ("type", "role", "content", "id", "status", "phase"),
    "function_call": ("type", "call_id", "name", "arguments", "id", "status", "parsed_arguments"),
    "function_call_output": ("type", "call_id", "output", "id", "status"),
}
# What an answer's text has beside it, and clients send back as it came.
_BESIDE_TEXT = frozenset(("annotations", "logprobs", "parsed"))
_MEDIA = ("input_image", "input_file", "input_audio")
_CALLED_HERE = {"tool_call_id": "call_id", "id": "call_id", "content": "output"}
_PLACE = re.compile(r"messages\[(\d+)\](?:\.tool_calls\[(\d+)\](?:\.function)?)?(.*)", re.DOTALL)


def parse_input(given: object) -> tuple[Item, ...]:
    """The items of a body's `input`, in one form.

    Raises:
        InvalidRequestError: It is no text and no list of items, or of another kind. `param` names
            it to the leaf: `input[2].role`.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": _text("input", given)}]
    if not isinstance(given, list) or not given:
        raise _fault("input", "must be a text, or a list of at least one item")
    if len(given) > MAX_ITEMS:
        raise _fault("input", f"must have at most {MAX_ITEMS} items; got {len(given)}")
    return tuple(_item(f"input[{i}]", item) for i, item in enumerate(given))


def messages_of(
    instructions: str | None, earlier: Sequence[Item], items: Sequence[Item]
) -> tuple[Message, ...]:
    """A conversation as chat messages.

    Args:
        instructions: A system message to begin with.
        earlier: What an earlier response was given and has answered.
        items: From `parse_input`.

    Raises:
        InvalidRequestError: A message holds what a model cannot be given. `param` names the item's
            field: `input[0].content[1]`.
    """
    turns = _Turns()
    if instructions is not None:
        turns.add({"role": "system", "content": instructions}, "instructions")
    for item in earlier:
        turns.add_item(item, EARLIER)
    for i, item in enumerate(items):
        turns.add_item(item, f"input[{i}]")
    try:
        return normalize_messages(turns.messages)
    except InvalidRequestError as error:
        raise turns.translated(error) from None


def with_ids(items: Iterable[Item], job_id: str) -> list[Item]:
    """The items of a job's input, each with an id: its own, or one by its place."""
    prefixes = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}
    seen, made = set[str](), []
    for i, item in enumerate(items):
        if item.get("id") is None or item["id"] in seen:
            item = {**item, "id": f"{prefixes[item['type']]}_{job_id}-in-{i}"}
        seen.add(item["id"])
        made.append(item)
    return made


def listed(item: Item) -> Item:
    """An item as a list shows it: the model's own texts have their annotations, which are none."""
    if item["type"] != "message" or item["role"] != "assistant":
        return item
    beside: Item = {"annotations": []}
    content = [part | beside if part["type"] == "output_text" else part for part in item["content"]]
    return {**item, "content": content}


@dataclass(slots=True)
class _Turns:
    """Chat messages as they are put together, and where each of them and its calls came from."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    _places: list[str] = field(default_factory=list)
    _calls: list[list[str]] = field(default_factory=list)

    def add(self, message: dict[str, Any], place: str) -> None:
        self.messages.append(message)
        self._places.append(place)
        self._calls.append([])

    def add_item(self, item: Item, place: str) -> None:
        if item["type"] == "message":
            self.add({"role": item["role"], "content": item["content"]}, place)
        elif item["type"] == "function_call_output":
            output, call_id = item["output"], item["call_id"]
            self.add({"role": "tool", "tool_call_id": call_id, "content": output}, place)
        else:
            self._add_call(item, place)

    def _add_call(self, item: Item, place: str) -> None:
        """A call belongs to the message before it where that is the model's own, too."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add({"role": "assistant", "content": None}, place)
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self._calls[-1].append(place)

    def translated(self, error: InvalidRequestError) -> InvalidRequestError:
        """The error with the place of the item in place of that of the message."""
        found = _PLACE.fullmatch(error.param or "")
        if found is None:
            return type(error)(error.message.replace("messages", "input", 1), param="input")
        index, call, rest = int(found[1]), found[2], found[3]
        place = self._places[index] if call is None else self._calls[index][int(call)]
        if place == EARLIER:
            problem = error.message.replace(found[0], "a part of it", 1)
            return type(error)(f"{EARLIER} cannot be gone on from: {problem}", param=place)
        if place.startswith("input"):
            is_of_tool = call is not None or self.messages[index]["role"] == "tool"
            place += _renamed(rest) if is_of_tool else rest
        return type(error)(error.message.replace(found[0], place, 1), param=place)


def _renamed(rest: str) -> str:
    """The path within a call or a tool's answer, as its item has it."""
    for name, here in _CALLED_HERE.items():
        if re.match(rf"\.{name}\b", rest):
            return f".{here}{rest[len(name) + 1 :]}"
    return rest


def _item(where: str, item: object) -> Item:
    if not isinstance(item, Mapping):
        raise _fault(where, 'must be an item such as {"role": "user", "content": "..."}')
    kind = item.get("type", "message" if "role" in item else None)
    if kind not in _KINDS:
        shown = f"'{kind[:100]}'" if isinstance(kind, str) else "none"
        raise _fault(f"{where}.type", f"must be one of {', '.join(_KINDS)}; got {shown}")
    for name, value in item.items():
        if name not in _FIELDS[kind] and value is not None:
            raise _fault(f"{where}.{name}", f"is not a field of an item with the type '{kind}'")
    made: Item = {"type": kind, "status": "completed"}
    if item.get("id") is not None:
        made["id"] = _id(f"{where}.id", item["id"])
    if kind == "message":
        return made | _message(where, item)
    names = ("call_id", "name", "arguments") if kind == "function_call" else ("call_id",)
    made |= {name: _text(f"{where}.{name}", item.get(name)) for name in names}
    if kind == "function_call_output":
        made["output"] = _output(f"{where}.output", item.get("output"))
    return made


def _message(where: str, item: Mapping[str, Any]) -> Item:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system", "developer"):
        raise _fault(f"{where}.role", "must be one of user, assistant, system, developer")
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        content = [{"type": kind, "text": _text(f"{where}.content", content)}]
    if not isinstance(content, list) or not content:
        raise _fault(f"{where}.content", "must be a text, or a list of at least one part")
    return {"role": role, "content": _parts(f"{where}.content", content, kind)}


def _parts(where: str, parts: list[Any], kind: str) -> list[object]:
    return [_part(f"{where}[{i}]", part, kind) for i, part in enumerate(parts)]


def _part(where: str, part: object, kind: str) -> object:
    """A part of a message, of one type where it is a text; what is wrong with it is told later."""
    if not isinstance(part, Mapping):
        return part
    if part.get("type") in _MEDIA:
        raise _fault(where, f"has the type '{part['type']}', but the model reads text only")
    made = {name: value for name, value in part.items() if value is not None}
    if part.get("type") in ("text", "input_text", "output_text"):
        made = {k: v for k, v in made.items() if k not in _BESIDE_TEXT} | {"type": kind}
    return made


def _output(where: str, output: object) -> object:
    if isinstance(output, str):
        return output
    if not isinstance(output, list) or not output:
        raise _fault(where, "must be a text, or a list of at least one part")
    return _parts(where, output, "input_text")


def _id(where: str, value: object) -> str:
    text = _text(where, value)
    if not 0 < len(text) <= 256:
        raise _fault(where, "must have 1 to 256 characters")
    return text


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _fault(where, "must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _fault(where, "must be valid Unicode, without lone surrogates") from None
    return value


def _fault(where: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {problem}.", param=where)
