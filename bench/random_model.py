"""A checkpoint with random weights in the shape of a published model; nothing is downloaded.

Speed depends on the shapes alone, so random weights measure what real ones would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SEED = 7


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3 model; the embedding is the head too.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key-value heads.
        head_dim: Width of a head.
        intermediate: Width of the MLP.
        vocab: Rows of the embedding, at least 256.
        context: Positions.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int = 4096

    @property
    def weights_read(self) -> int:
        """Weights that a decode step reads: all linear layers and the head."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + (
            self.hidden * self.vocab
        )


SHAPES = {
    "qwen3-0.6b": Shape(28, 1024, 16, 8, 128, 3072, 151_936),
    "qwen3-1.7b": Shape(28, 2048, 16, 8, 128, 6144, 151_936),
    "small": Shape(4, 256, 4, 2, 64, 768, 8_192),
}


def save(shape: Shape, folder: Path) -> None:
    """Write config, bf16 weights and a byte-level tokenizer that has a text for every id."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        bos_token_id=None,
        eos_token_id=0,
        dtype=torch.bfloat16,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    _tokenizer(shape.vocab).save_pretrained(folder)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"w{index}" for index in range(vocab_size - len(letters)))]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)
