"""What a completion has to look like, and how that is said to the engine.

The gateway tries what a client sends in a process that can be killed (`api.grammar_checker`), and
the worker's engine compiles the same text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark"]

WHITE_SPACE = r"[ ]|\n[ \t]{0,24}"
"""Between the parts of a JSON text: what models write. It is bounded, for one that has begun with
white space may never stop."""
_JSON_OPTIONS = "x-guidance"


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """One of the ways to say what a completion has to look like.

    Attributes:
        kind: How `text` is to be read.
        text: For `json_schema` the schema as JSON, for `choice` a JSON list of strings, for
            `regex` and `lark` these as they are; nothing for `json_object`.
    """

    kind: GrammarKind
    text: str = ""

    def lark(self) -> str:
        """The grammar in llguidance's dialect of Lark.

        Whether it can be compiled is for llguidance to say.
        """
        match self.kind:
            case "json_object":
                return json_rule("start", {"type": "object"})
            case "json_schema":
                return json_rule("start", json.loads(self.text))
            case "regex":
                return f"start: /{_escaped(self.text)}/"
            case "choice":
                # A terminal: as alternatives of a rule, one that another begins with would end it.
                choices = [json.dumps(text, ensure_ascii=False) for text in json.loads(self.text)]
                return "start: CHOICE\nCHOICE: " + " | ".join(choices)
            case "lark":
                return self.text


def json_rule(name: str, schema: Any) -> str:
    """A rule of Lark for JSON that is valid by a schema."""
    if isinstance(schema, dict):
        schema = {**schema, _JSON_OPTIONS: {"whitespace_pattern": WHITE_SPACE}}
    return f"{name}: %json {json.dumps(schema, ensure_ascii=False)}"


def _escaped(regex: str) -> str:
    r"""Make a regex fit between slashes on one line, with `\d` and `\w` for ASCII alone."""
    from llguidance import regex_to_lark  # where nobody asks for a regex, it is not loaded

    return regex_to_lark(regex, "dw")
