"""How conversations and tools look in the API's documentation.

They are not checked by these: `common.chat_messages`, `common.tool_calls` and
`api.openai.responses.conversation` do that, with errors that name the leaf at fault.
"""

from __future__ import annotations

from typing import Any

from common.chat_messages import MAX_MESSAGES
from common.tool_calls.definitions import MAX_DESCRIPTION_CHARS, MAX_TOOLS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
ANYTHING: Schema = {"description": "Changes nothing."}
_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}


def _object(title: str, required: tuple[str, ...], **properties: Schema) -> Schema:
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def or_null(schema: Schema) -> Schema:
    """The schema of a field that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema, at_most: int | None = None, at_least: int = 1) -> Schema:
    limit = {} if at_most is None else {"maxItems": at_most}
    return {"type": "array", "minItems": at_least, "items": items, **limit}


_PART = _object(
    "TextPart", ("type", "text"), type={"enum": ["text", "input_text", "output_text"]}, text=TEXT
)
_CONTENT: Schema = {"anyOf": [TEXT, _list(_PART)]}
_CALL = _object(
    "ToolCall",
    ("id", "function"),
    id=TEXT,
    type={"const": "function"},
    function=_object(
        "Call", ("name", "arguments"), name=TEXT, arguments={**TEXT, "description": "JSON."}
    ),
)
_ASSISTANT: Schema = {
    "role": {"const": "assistant"},
    "name": or_null(TEXT),
    **{name: or_null(TEXT) for name in ("reasoning_content", "reasoning", "thinking", "refusal")},
    **dict.fromkeys(("annotations", "audio", "function_call"), ANYTHING),
}
_MESSAGE: Schema = {
    "anyOf": [
        _object(
            "Message",
            ("role", "content"),
            role={"enum": ["user", "system", "developer"]},
            content=_CONTENT,
            name=or_null(TEXT),
        ),
        _object(
            "AssistantText",
            ("role", "content"),
            **_ASSISTANT,
            content=_CONTENT,
            tool_calls=or_null(_list(_CALL, at_least=0)),
        ),
        _object(
            "AssistantCalls",
            ("role", "tool_calls"),
            **_ASSISTANT,
            content=or_null(_CONTENT),
            tool_calls=_list(_CALL),
        ),
        _object(
            "ToolAnswer",
            ("role", "content", "tool_call_id"),
            role={"const": "tool"},
            content=_CONTENT,
            tool_call_id={**TEXT, "description": "Of a call in a message before."},
            name=or_null(TEXT),
        ),
    ]
}
MESSAGES = _list(_MESSAGE, MAX_MESSAGES)

_FUNCTION: Schema = {
    "name": _NAME,
    "description": or_null({"type": "string", "maxLength": MAX_DESCRIPTION_CHARS}),
    "parameters": or_null(
        {
            "type": "object",
            "description": "A JSON schema.",
            "properties": {"type": {"const": "object"}, "properties": {"type": "object"}},
        }
    ),
    "strict": or_null({"type": "boolean"}),
}
_MODES: Schema = {"enum": ["none", "auto", "required"]}
_IS_FUNCTION: Schema = {"const": "function"}

TOOLS = _list(
    _object(
        "Tool",
        ("type", "function"),
        type=_IS_FUNCTION,
        function=_object("Function", ("name",), **_FUNCTION),
    ),
    MAX_TOOLS,
    at_least=0,
)
TOOL_CHOICE: Schema = {
    "anyOf": [
        _MODES,
        {
            "title": "NamedTool",
            "type": "object",
            "properties": {
                "type": _IS_FUNCTION,
                "function": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
    ]
}

FLAT_TOOLS = _list(
    _object("Tool", ("type", "name"), type=_IS_FUNCTION, **_FUNCTION), MAX_TOOLS, at_least=0
)
_NAMED: Schema = {
    "title": "NamedTool",
    "type": "object",
    "properties": {"type": _IS_FUNCTION, "name": TEXT},
    "required": ["type", "name"],
}
FLAT_TOOL_CHOICE: Schema = {
    "anyOf": [
        _MODES,
        _NAMED,
        {
            "title": "AllowedTools",
            "type": "object",
            "properties": {
                "type": {"const": "allowed_tools"},
                "mode": {"enum": ["auto", "required"]},
                "tools": _list(_NAMED),
            },
            "required": ["type", "tools"],
        },
    ]
}

_ITEM: Schema = {
    "id": or_null({"type": "string", "minLength": 1, "maxLength": 256}),
    "status": ANYTHING,
}
INPUT: Schema = {
    "anyOf": [
        TEXT,
        _list(
            {
                "anyOf": [
                    _object(
                        "InputMessage",
                        ("role", "content"),
                        type={"const": "message"},
                        role={"enum": ["user", "assistant", "system", "developer"]},
                        content=_CONTENT,
                        phase=ANYTHING,
                        **_ITEM,
                    ),
                    _object(
                        "FunctionCall",
                        ("type", "call_id", "name", "arguments"),
                        type={"const": "function_call"},
                        call_id=TEXT,
                        name=TEXT,
                        arguments={**TEXT, "description": "JSON."},
                        parsed_arguments=ANYTHING,
                        **_ITEM,
                    ),
                    _object(
                        "FunctionCallOutput",
                        ("type", "call_id", "output"),
                        type={"const": "function_call_output"},
                        call_id={**TEXT, "description": "Of a call before."},
                        output=_CONTENT,
                        **_ITEM,
                    ),
                ]
            },
            MAX_MESSAGES,
        ),
    ]
}
