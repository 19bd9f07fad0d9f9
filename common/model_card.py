"""What a worker publishes of a model it has loaded: all that a gateway needs to know of it.

With the card and the tokenizer file the gateway renders, counts and checks prompts, so it needs
neither weights nor transformers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, Self

from common.known_fields import of_known

ModelKind = Literal["generate", "embed"]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model, as loaded.

    Attributes:
        model: Its id, as requests name it.
        revision: A hash of weights and configuration.
        architecture: The class name of the model, such as LlamaForCausalLM.
        format: What the weights are stored as, such as safetensors.
        context_length: Tokens that prompt and output may have together; None where the server
            behind the model does not tell.
        vocab_size: Token ids are below this; 0 where there are none.
        dtype: Of the weights in the worker's memory.
        tokenizer_sha256: Where the tokenizer file is kept (`keys.tokenizer`); None where another
            server runs the model, and reads prompts as they came.
        chat_template: Jinja source: the model's own, or ours that stands in for it, or None.
        special_tokens: `bos_token`, `eos_token`, ... for the template.
        tool_template: The template for conversations with tools, where the model has one of its
            own for them.
        kind: What it is for: `generate` or `embed`.
        embedding_size: Numbers of an embedding; None where it makes none.
        parameters: What the model's backend can honour of what not every one can, by the names in
            `common.parameters`; None: all of it.
    """

    model: str
    revision: str
    architecture: str
    format: str
    context_length: int | None
    vocab_size: int
    dtype: str
    tokenizer_sha256: str | None
    chat_template: str | None
    special_tokens: dict[str, str]
    tool_template: str | None = None
    kind: ModelKind = "generate"
    embedding_size: int | None = None
    parameters: tuple[str, ...] | None = None

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts are encoded here; else they go to the model's server as they came."""
        return self.tokenizer_sha256 is not None

    @property
    def fingerprint(self) -> str:
        """Equal for workers that continue each other's jobs: weights, configuration and dtype."""
        return f"{self.revision}:{self.dtype}"

    def pack(self) -> str:
        """JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`; fields of a later version's are passed over."""
        values = json.loads(packed)
        if values.get("parameters") is not None:
            values["parameters"] = tuple(values["parameters"])
        return of_known(cls, values)
