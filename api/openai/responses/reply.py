"""What a job's record keeps of the response that it is for.

Packed as JSON into the record's field `reply`, which lives as long as the record; a job without it
is no response. What a record has anyway, such as metadata and sampling, is not in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from api.openai.responses.conversation import Item
from common.tool_calls.families import Family

PREFIX = "resp_"
"""Before the job's id: the id of the response."""
PARAMS = {
    "prompt": "input",
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "response_format": "text.format",
}
"""A response's own names of fields, as in a `JobRequest`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response's request, as far as its answers need it.

    Attributes:
        items: All that the model was given, the earlier response's items included.
        family: How the model writes calls; None where that was not known yet.
        reads_calls: The model was told of tools.
    """

    items: tuple[Item, ...]
    instructions: str | None
    previous_response_id: str | None
    is_background: bool
    is_stored: bool
    text: dict[str, Any]
    tools: tuple[dict[str, Any], ...]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    max_output_tokens: int | None
    reads_calls: bool
    family: Family | None

    def pack(self) -> str:
        """As text."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        values = json.loads(packed)
        for name in ("items", "tools"):
            values[name] = tuple(values[name])
        if values["family"] is not None:
            values["family"] = Family(values["family"])
        return cls(**values)
