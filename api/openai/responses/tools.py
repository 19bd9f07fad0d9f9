"""The `tools` and `tool_choice` of a response, in the form in which chats have them.

Here a function stands beside its type, there below it; a choice may also name the tools that are
allowed. Errors name the fields as they are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidRequestError
from common.tool_calls.definitions import Tool, ToolChoice, parse_tool_choice, parse_tools


def parse_flat_tools(tools: object) -> tuple[Tool, ...]:
    """The functions that a body brings.

    Raises:
        InvalidRequestError: Something is wrong with them; `param` names it: `tools[0].parameters`.
    """
    nested = [_nested(tool) for tool in tools] if isinstance(tools, list) else tools
    try:
        return parse_tools(nested)
    except InvalidRequestError as error:
        raise _flat(error) from None


@dataclass(frozen=True, slots=True)
class FlatChoice:
    """Whether the model has to call, and what.

    Attributes:
        choice: As in a chat.
        allowed: The tools that it may call.
        shown: As responses show it.
    """

    choice: ToolChoice
    allowed: tuple[Tool, ...]
    shown: str | dict[str, Any]


def parse_flat_choice(given: object, tools: tuple[Tool, ...]) -> FlatChoice:
    """The `tool_choice` of a body with these tools.

    Raises:
        InvalidRequestError: It is no choice, or it needs a tool that is not there.
    """
    if isinstance(given, Mapping) and given.get("type") == "allowed_tools":
        return _allowed(given, tools)
    if given == "auto" and not tools:
        given = None  # what clients send as the default
    choice = _parsed(_nested(given), tools)
    if choice.mode == "named":
        return FlatChoice(choice, tools, _shown(choice.name))
    return FlatChoice(choice, tools, choice.mode if given is not None else "auto")


def _parsed(choice: object, tools: tuple[Tool, ...]) -> ToolChoice:
    try:
        return parse_tool_choice(choice, tools)
    except InvalidRequestError as error:
        raise _flat(error) from None


def _shown(name: str | None) -> dict[str, Any]:
    return {"type": "function", "name": name}


def _nested(tool: object) -> object:
    """A function, or the choice of one, with what describes it a level below."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        return tool
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _allowed(given: Mapping[str, Any], tools: tuple[Tool, ...]) -> FlatChoice:
    mode, listed = given.get("mode", "auto"), given.get("tools")
    if mode not in ("auto", "required"):
        raise _fault("tool_choice.mode", "must be 'auto' or 'required'")
    if not isinstance(listed, list) or not listed:
        raise _fault("tool_choice.tools", "must be a list of at least one function")
    known = {tool.name for tool in tools}
    names = [each.get("name") if isinstance(each, Mapping) else None for each in listed]
    for i, name in enumerate(names):
        if not isinstance(name, str) or name not in known:
            raise _fault(f"tool_choice.tools[{i}].name", "must be a function of tools")
    allowed = tuple(tool for tool in tools if tool.name in names)
    shown = {"type": "allowed_tools", "mode": mode, "tools": [_shown(t.name) for t in allowed]}
    return FlatChoice(_parsed(mode, allowed), allowed, shown)


def _flat(error: InvalidRequestError) -> InvalidRequestError:
    param = error.param or "tools"
    flat = param.replace(".function", "")
    message = error.message.replace(param, flat, 1)
    example = '{"type": "function", "function": {"name": "..."}}'
    message = message.replace(example, '{"type": "function", "name": "..."}')
    return InvalidRequestError(message, param=flat)


def _fault(where: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {problem}.", param=where)
