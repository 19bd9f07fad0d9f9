"""The grammar that forces a model to call, in the way its family writes calls.

What comes of it is read by `common.tool_calls.parser`. No special tokens: Mistral's and Llama's
calls are forced without the mark that a model would set before them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from common.grammar import GrammarSpec, json_rule
from common.tool_calls.definitions import Tool, ToolChoice
from common.tool_calls.families import Family

MAX_FORCED_CALLS = 16
"""Calls in one answer; a model that has begun with a list may never end it."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How one call is written, and several.

    Attributes:
        before: The first call.
        head: Of a call, with the function's name in it as JSON.
        tail: Of a call.
        between: Two calls.
        after: The last call.
    """

    head: str
    tail: str
    between: str
    before: str = ""
    after: str = ""


_TAGS = _Form('<tool_call>\n{"name": %s, "arguments": ', "}\n</tool_call>", "\n")
_FORMS = {
    Family.HERMES: _TAGS,
    Family.GENERIC: _TAGS,
    Family.LLAMA: _Form('{"name": %s, "parameters": ', "}", "; "),
    Family.MISTRAL: _Form('{"name": %s, "arguments": ', "}", ", ", before="[", after="]"),
}


def grammar_for(
    choice: ToolChoice, tools: Sequence[Tool], family: Family, *, parallel: bool = True
) -> GrammarSpec | None:
    """The grammar that a tool choice asks for.

    Args:
        choice: From `parse_tool_choice`, with these tools.
        tools: From `parse_tools`.
        family: Of the model, `PromptEncoder.family`.
        parallel: Whether `required` may be several calls (`parallel_tool_calls`).

    Returns:
        None where the choice is `none` or `auto`: the model answers freely. Else what the whole
        answer has to look like: one call of the named function, or calls of any, up to
        `MAX_FORCED_CALLS`. It may hold what llguidance cannot compile, as any schema of a client
        may: try it (`api.grammar_checker`) before it is submitted.
    """
    if not choice.is_forced:
        return None
    allowed = [tool for tool in tools if choice.name in (None, tool.name)]
    form = _FORMS[family]
    most = MAX_FORCED_CALLS - 1 if parallel and choice.mode == "required" else 0
    more = f" (BETWEEN call){{0,{most}}}" if most else ""
    rules = [
        f"start: {_text(form.before)} call{more} {_text(form.after)}",
        "call: " + " | ".join(f"call_{i}" for i in range(len(allowed))),
    ]
    if most:
        rules.append(f"BETWEEN: {_text(form.between)}")
    for i, tool in enumerate(allowed):
        head = form.head % json.dumps(tool.name)
        rules.append(f"call_{i}: {_text(head)} arguments_{i} {_text(form.tail)}")
        rules.append(json_rule(f"arguments_{i}", tool.parameters))
    return GrammarSpec("lark", "\n".join(rules))


def _text(text: str) -> str:
    return json.dumps(text) if text else ""
