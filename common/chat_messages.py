"""Chat messages as OpenAI's clients send them, checked and made into what templates read.

Pure, and knows nothing about any model: whether a template takes a role, a list as content or a
tool's answer is for `common.prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from common.errors import InvalidRequestError
from common.json_depth import depth_of
from common.schemas import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 4096
MAX_ARGUMENTS_DEPTH = 64

_EVERYWHERE = frozenset(("role", "content", "name"))
_FIELDS = {
    "assistant": _EVERYWHERE | {"tool_calls", "reasoning_content", "reasoning", "thinking"},
    "tool": _EVERYWHERE | {"tool_call_id"},
}
# What an answer carries beside its text, and clients send back as it came.
_IGNORED = frozenset(("annotations", "audio", "function_call", "refusal"))
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which clients send reasoning back; templates read the first."""
_MEDIA = frozenset(("image_url", "input_image", "input_audio", "video_url", "audio_url", "file"))


def normalize_messages(messages: object) -> tuple[Message, ...]:
    """Check the `messages` of a request, and bring them into the form that templates expect.

    What changes: `developer` becomes `system`; a content of null becomes an empty text; an
    assistant's `tool_calls` get their arguments as objects in place of JSON texts; a tool's answer
    gets the `name` of the function it answers; reasoning that came back as `reasoning` or
    `thinking` is there as `reasoning_content` too. A content that is a list of text parts stays
    one.

    Args:
        messages: As parsed from JSON, of any type.

    Returns:
        New messages, in order; the argument is not modified. They can be kept in a `Prompt`.

    Raises:
        InvalidRequestError: Something is wrong with them. `param` names it to the leaf, such as
            `messages[2].content[0]` or `messages[1].tool_calls[0].function.arguments`.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise _unexpected("messages", "a list of at least one message", messages)
    if len(messages) > MAX_MESSAGES:
        raise _fault("messages", f"must have at most {MAX_MESSAGES} messages; got {len(messages)}")
    names_by_id: dict[str, str] = {}
    return tuple(_message(f"messages[{i}]", m, names_by_id) for i, m in enumerate(messages))


def _message(where: str, message: object, names_by_id: dict[str, str]) -> Message:
    if not isinstance(message, Mapping):
        raise _unexpected(where, "an object", message)
    role = message.get("role")
    if role not in ROLES:
        raise _unexpected(f"{where}.role", f"one of {', '.join(ROLES)}", role)
    _check_fields(where, role, message)
    made: Message = {"role": "system" if role == "developer" else role}
    calls = _calls(where, message.get("tool_calls"), names_by_id)
    made["content"] = _content(where, role, message, has_calls=bool(calls))
    if message.get("name") is not None:
        made["name"] = _text(f"{where}.name", message["name"])
    if calls:
        made["tool_calls"] = calls
    if role == "tool":
        made |= _answered(where, message, names_by_id)
    if role == "assistant":
        made |= _reasoning(where, message)
    return made


def _check_fields(where: str, role: str, message: Mapping[str, Any]) -> None:
    known = _FIELDS.get(role, _EVERYWHERE)
    for name, value in message.items():
        is_known = name in known or (role == "assistant" and name in _IGNORED)
        if not is_known and value is not None:
            raise _fault(f"{where}.{name}", f"is not a field of a message with the role '{role}'")


def _content(
    where: str, role: str, message: Mapping[str, Any], *, has_calls: bool
) -> str | list[dict[str, str]]:
    content = message.get("content")
    if content is None and role == "assistant":
        refusal = message.get("refusal")
        if has_calls or isinstance(refusal, str):
            return refusal or ""
    if isinstance(content, str):
        return _text(f"{where}.content", content)
    if isinstance(content, list) and content:
        return [_part(f"{where}.content[{j}]", role, part) for j, part in enumerate(content)]
    expected = "a text or a list of text parts"
    if role == "assistant":
        expected += " (or nothing, beside tool_calls)"
    raise _unexpected(f"{where}.content", expected, content)


def _part(where: str, role: str, part: object) -> dict[str, str]:
    if not isinstance(part, Mapping):
        raise _unexpected(where, 'a part such as {"type": "text", "text": "..."}', part)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        raise _fault(where, f"has the type '{kind}', but this model reads text only")
    field = "refusal" if kind == "refusal" and role == "assistant" else "text"
    if kind not in ("text", "input_text", "output_text", field):
        raise _unexpected(f"{where}.type", "'text'", kind)
    for name in part:
        if name not in ("type", field):
            raise _fault(f"{where}.{name}", f"is not a field of a part with the type '{kind}'")
    return {"type": "text", "text": _text(f"{where}.{field}", part.get(field))}


def _calls(where: str, calls: object, names_by_id: dict[str, str]) -> list[dict[str, Any]]:
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise _unexpected(f"{where}.tool_calls", "a list of calls", calls)
    made = [_call(f"{where}.tool_calls[{j}]", call) for j, call in enumerate(calls)]
    names_by_id.update((call["id"], call["function"]["name"]) for call in made)
    return made


def _call(where: str, call: object) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise _unexpected(where, "an object", call)
    if call.get("type", "function") != "function":
        raise _unexpected(f"{where}.type", "'function'", call["type"])
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise _unexpected(f"{where}.function", "an object with a name and arguments", function)
    name = _text(f"{where}.function.name", function.get("name"))
    arguments = _arguments(f"{where}.function.arguments", function.get("arguments"))
    return {
        "id": _text(f"{where}.id", call.get("id")),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _arguments(where: str, arguments: object) -> dict[str, Any]:
    text = _text(where, arguments)
    try:
        # Some clients send back the arguments of a function without any as an empty text.
        parsed = json.loads(text or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _fault(where, "must be valid JSON, in a text") from None
    if not isinstance(parsed, dict):
        raise _unexpected(where, "a JSON object, in a text", parsed)
    if depth_of(parsed, MAX_ARGUMENTS_DEPTH) > MAX_ARGUMENTS_DEPTH:
        raise _fault(where, f"must be nested at most {MAX_ARGUMENTS_DEPTH} levels deep")
    return parsed


def _answered(
    where: str, message: Mapping[str, Any], names_by_id: Mapping[str, str]
) -> dict[str, str]:
    """Whose answer a tool's message is, and the function's name."""
    call_id = _text(f"{where}.tool_call_id", message.get("tool_call_id"))
    if call_id not in names_by_id:
        raise _fault(
            f"{where}.tool_call_id",
            f"must be the id of a call in an assistant message before; got '{call_id[:100]}'",
        )
    answered = {"tool_call_id": call_id}
    return answered if message.get("name") else {**answered, "name": names_by_id[call_id]}


def _reasoning(where: str, message: Mapping[str, Any]) -> dict[str, str]:
    for name in _REASONING:
        if message.get(name) is not None:
            text = _text(f"{where}.{name}", message[name])
            return {"thinking": text, "reasoning_content": text}
    return {}


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _unexpected(where, "a text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _fault(where, "must be valid Unicode, without lone surrogates") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a boolean"),
    ((int, float), "a number"),
    (list, "a list"),
    (dict, "an object"),
)


def _described(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value[:100])
    if value in ([], ()):
        return "an empty list"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "something else")


def _unexpected(where: str, expected: str, value: object) -> InvalidRequestError:
    return _fault(where, f"must be {expected}; got {_described(value)}")


def _fault(where: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {problem}.", param=where)
