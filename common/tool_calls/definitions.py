"""The `tools` and `tool_choice` of a request, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.errors import InvalidRequestError
from common.json_depth import depth_of

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_DESCRIPTION_CHARS = 16 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_FIELDS = frozenset(("type", "function"))
_FUNCTION_FIELDS = frozenset(("name", "description", "parameters", "strict"))
_EMPTY_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

ToolMode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call.

    Attributes:
        parameters: A JSON schema of an object; where the client left it out, one without
            properties.
        strict: As the client said it. It holds where a call is forced; under `auto` the model
            writes its calls freely.
    """

    name: str
    description: str | None
    parameters: dict[str, Any]
    strict: bool

    def for_template(self) -> dict[str, Any]:
        """OpenAI's form, which templates expect."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model has to call.

    Attributes:
        mode: `none`: it is not told of any function; `auto`: it decides; `required`: at least one
            call, of any function; `named`: one call of this function.
        name: The function, where the mode is `named`.
    """

    mode: ToolMode
    name: str | None = None

    @property
    def is_forced(self) -> bool:
        """Whether a grammar forces a call (`common.tool_calls.forcing.grammar_for`)."""
        return self.mode in ("required", "named")


def parse_tools(tools: object) -> tuple[Tool, ...]:
    """Check the `tools` of a request, as parsed from JSON.

    Returns:
        Them in order; none where `tools` is None or an empty list. `Prompt.tools` takes what
        `Tool.for_template` makes of them.

    Raises:
        InvalidRequestError: `param` names the leaf at fault, `tools[0].function.parameters`.
    """
    if tools is None:
        return ()
    if not isinstance(tools, list | tuple):
        raise _fault("tools", "must be a list")
    if len(tools) > MAX_TOOLS:
        raise _fault("tools", f"must have at most {MAX_TOOLS} functions; got {len(tools)}")
    parsed = tuple(_tool(f"tools[{i}]", tool) for i, tool in enumerate(tools))
    seen: set[str] = set()
    for i, tool in enumerate(parsed):
        if tool.name in seen:
            raise _fault(f"tools[{i}].function.name", f"is there twice: '{tool.name}'")
        seen.add(tool.name)
    return parsed


def parse_tool_choice(choice: object, tools: Sequence[Tool]) -> ToolChoice:
    """Check the `tool_choice` of a request, as parsed from JSON, against its tools.

    Returns:
        The choice; where it was left out `auto`, or `none` where there are no tools.

    Raises:
        InvalidRequestError: It is no choice, or it needs a tool that is not there.
    """
    if choice is None:
        return ToolChoice("auto" if tools else "none")
    if choice == "none":
        return ToolChoice("none")
    if not tools:
        raise _fault("tool_choice", "needs tools, but there are none")
    if choice == "auto":
        return ToolChoice("auto")
    if choice == "required":
        return ToolChoice("required")
    return ToolChoice("named", _named(choice, tools))


def _named(choice: object, tools: Sequence[Tool]) -> str:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    is_choice = (
        isinstance(choice, Mapping)
        and choice.get("type") == "function"
        and isinstance(function, Mapping)
    )
    if not is_choice or not isinstance(function, Mapping):
        raise _fault(
            "tool_choice",
            "must be 'none', 'auto', 'required' or "
            '{"type": "function", "function": {"name": "..."}}',
        )
    name = function.get("name")
    for tool in tools:
        if tool.name == name:
            return tool.name
    known = ", ".join(tool.name for tool in tools[:8])
    raise _fault("tool_choice.function.name", f"must be a function of tools: {known}")


def _tool(where: str, tool: object) -> Tool:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        raise _fault(f"{where}.type", "must be 'function'")
    _check_fields(where, tool, _TOOL_FIELDS)
    function, where = tool.get("function"), f"{where}.function"
    if not isinstance(function, Mapping):
        raise _fault(where, "must be an object with a name")
    _check_fields(where, function, _FUNCTION_FIELDS)
    return Tool(
        _name(f"{where}.name", function.get("name")),
        _description(f"{where}.description", function.get("description")),
        _parameters(f"{where}.parameters", function.get("parameters")),
        _strict(f"{where}.strict", function.get("strict")),
    )


def _check_fields(where: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            raise _fault(f"{where}.{name}", f"is not known; expected {', '.join(sorted(known))}")


def _name(where: str, name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _fault(where, "must be 1 to 64 letters, digits, '_' and '-'")
    return name


def _description(where: str, text: object) -> str | None:
    if text is None or (isinstance(text, str) and len(text) <= MAX_DESCRIPTION_CHARS):
        return text
    raise _fault(where, f"must be a text of at most {MAX_DESCRIPTION_CHARS} characters")


def _strict(where: str, strict: object) -> bool:
    if strict is None or isinstance(strict, bool):
        return bool(strict)
    raise _fault(where, "must be true or false")


def _parameters(where: str, schema: object) -> dict[str, Any]:
    if schema is None or schema == {}:
        return dict(_EMPTY_SCHEMA)
    if not isinstance(schema, dict):
        raise _fault(where, "must be a JSON schema, an object")
    if schema.get("type", "object") != "object":
        raise _fault(
            where, f'must be the schema of an object: "type": "object", got {schema["type"]!r}'
        )
    if not isinstance(schema.get("properties", {}), dict):
        raise _fault(f"{where}.properties", "must be an object")
    if depth_of(schema, MAX_SCHEMA_DEPTH) > MAX_SCHEMA_DEPTH:
        raise _fault(where, f"must be nested at most {MAX_SCHEMA_DEPTH} levels deep")
    try:
        num_bytes = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        raise _fault(where, "must be valid Unicode, without lone surrogates") from None
    except ValueError:
        raise _fault(where, "must not hold NaN or an infinity") from None
    if num_bytes > MAX_SCHEMA_BYTES:
        raise _fault(where, f"must have at most {MAX_SCHEMA_BYTES} bytes, not {num_bytes}")
    return {"type": "object", **schema}


def _fault(where: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {problem}.", param=where)
