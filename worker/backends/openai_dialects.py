"""What the servers that speak OpenAI's API take beyond it, and under which names.

A server is known by what its list of models says of their owner; one that is not known is sent
nothing but what OpenAI's own takes. Names are those of `common.parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_PENALTIES = ("presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server.

    Attributes:
        fields: Of the sampling parameters that it takes, what it calls each.
        grammars: Kinds of grammar that its `response_format` takes.
        takes_template_kwargs: `chat_template_kwargs` go to its chat template.
        formats_completions: `response_format` goes with raw prompts, too.
        has_json_schema_inside: It takes a schema as a part of `json_object` alone.
        token_field: What it calls the limit of a chat's tokens.
        every_token: The `top_k` that keeps all.
    """

    fields: Mapping[str, str]
    grammars: tuple[str, ...] = ("json_object", "json_schema")
    takes_template_kwargs: bool = False
    formats_completions: bool = False
    has_json_schema_inside: bool = False
    token_field: str = "max_tokens"
    every_token: int = 0
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = {*self.fields, *self.grammars}
        if self.takes_template_kwargs:
            names.add("template_kwargs")
        object.__setattr__(self, "names", frozenset(names))


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_BATON = Dialect(
    fields=_same(
        *_PENALTIES,
        *("top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids"),
        "logit_bias",
    ),
    takes_template_kwargs=True,
    formats_completions=True,
)
_VLLM = replace(_BATON, every_token=-1)
_OPENAI = Dialect(fields=_same(*_PENALTIES, "logit_bias"))

DIALECTS: Mapping[str, Dialect] = {
    "": _OPENAI,
    # Newer models of its own refuse the old name.
    "openai": Dialect(fields=_OPENAI.fields, token_field="max_completion_tokens"),
    "vllm": _VLLM,
    "sglang": _VLLM,
    "baton": _BATON,
    # llama.cpp's own server.
    "llamacpp": Dialect(
        fields=_same(*_PENALTIES, "top_k", "min_p", "ignore_eos", "logit_bias")
        | {"repetition_penalty": "repeat_penalty"},
        takes_template_kwargs=True,
    ),
    # llama-cpp-python's server.
    "me": Dialect(
        fields=_same(*_PENALTIES, "top_k", "min_p", "min_tokens", "logit_bias")
        | {"repetition_penalty": "repeat_penalty"},
        has_json_schema_inside=True,
    ),
}
"""By the `owned_by` of its models."""

_OWNERS = {"system": "openai", "openai-internal": "openai"}


def dialect_of(models: list[dict[str, Any]]) -> str:
    """The dialect of a server, by its list of models."""
    owners = {str(model.get("owned_by")) for model in models}
    dialects = {_OWNERS.get(owner, owner) for owner in owners}
    [dialect] = dialects if len(dialects) == 1 else {""}
    return dialect if dialect in DIALECTS else ""
