"""How models write their calls, told from their chat templates."""

from __future__ import annotations

import secrets
import string
from enum import StrEnum

_ALPHANUMERIC = string.ascii_letters + string.digits


class Family(StrEnum):
    """A way of writing calls.

    HERMES: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, each call in tags of its
        own: Hermes, Qwen 2.5 and 3, and many that were trained on their data.
    LLAMA: the whole answer is `{"name": ..., "parameters": {...}}`, perhaps behind
        `<|python_tag|>`, several with `;` between them: Llama 3.1 to 3.3.
    MISTRAL: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, in newer ones
        `[TOOL_CALLS]name[ARGS]{...}` for each call.
    GENERIC: ours, for every other model. It is told of the functions, and how to call them, in a
        system message (`common.tool_calls.system_text`), and calls as Hermes does; an answer that
        is nothing but a JSON call, or a list of them, is taken as well.
    """

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"
    GENERIC = "generic"


def family_of(chat_template: str | None) -> Family:
    """The family by a template's text; the text must be that of a template that reads `tools`.

    A template that has its calls written otherwise, such as in XML, is generic: then it is not
    given any tools, for what the model would answer could not be read.
    """
    text = chat_template or ""
    if "[TOOL_CALLS]" in text:
        return Family.MISTRAL
    # In Qwen 3 Coder's calls, the tags hold XML.
    if "<tool_call>" in text and "<function=" not in text:
        return Family.HERMES
    if "<|start_header_id|>" in text and "parameters" in text:
        return Family.LLAMA
    return Family.GENERIC


def new_call_id(family: Family) -> str:
    """A new id for a call. Mistral's templates take none but those of nine letters and digits."""
    if family is Family.MISTRAL:
        return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"
