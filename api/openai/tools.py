"""The tools of a chat request, and which of them the model may or must call."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.response_format import bounded_schema
from api.schemas import Text

MAX_TOOLS = 128
MODES = ("none", "auto", "required")

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Function(_Strict):
    """A function that the model may call."""

    name: ToolName = Field(examples=["get_weather"])
    description: Text | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(bounded_schema)] | None = Field(
        default=None, description="A JSON schema of an object. Default: no arguments."
    )
    strict: bool | None = Field(
        default=None, description="Where the call is forced, the schema is obeyed anyway."
    )


class Tool(_Strict):
    """A tool: a function."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Strict):
    """The function that has to be called."""

    name: ToolName


class NamedTool(_Strict):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


def _as_choice(choice: object) -> object:
    """Any form as the mode or the name in it, so that an error speaks of the field alone."""
    if choice is None or choice in MODES:
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        if set(choice) == {"type", "function"} and isinstance(function, dict):
            name = function.get("name")
            if isinstance(name, str) and set(function) == {"name"}:
                return NamedTool.model_construct(
                    type="function", function=NamedFunction.model_construct(name=name)
                )
    raise ValueError(
        f'must be one of {", ".join(MODES)}, or {{"type": "function", "function": {{"name"}}}}'
    )


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool | None,
    BeforeValidator(_as_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(MODES)},
                {
                    "type": "object",
                    "properties": {
                        "type": {"const": "function"},
                        "function": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}},
                            "required": ["name"],
                        },
                    },
                    "required": ["type", "function"],
                },
            ]
        }
    ),
]
"""`none`, `auto`, `required`, or a function's name."""


def check_choice(choice: str | NamedTool | None, tools: list[Tool]) -> None:
    """Check that what has to be called is there.

    Raises:
        ValueError: It is not.
    """
    if isinstance(choice, NamedTool):
        name = choice.function.name
        if name not in {tool.function.name for tool in tools}:
            raise ValueError(f"tool_choice names '{name}', which is none of the tools")
    elif choice in ("auto", "required") and not tools:
        raise ValueError(f"tool_choice {choice} goes with tools; got none")


def check_names(tools: list[Tool]) -> None:
    """Check that no two tools have one name.

    Raises:
        ValueError: Two have.
    """
    names = [tool.function.name for tool in tools]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise ValueError(f"tools must have different names; got '{doubled}' twice")
