"""Write a Qwen3 checkpoint as a GGUF file, as llama.cpp reads it."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from safetensors import safe_open
from transformers import Qwen3Config

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

TYPES = {"bf16": gguf.GGMLQuantizationType.BF16, "int8": gguf.GGMLQuantizationType.Q8_0}
"""Of the matrices; norms are fp32. Q8_0 has blocks of 32 weights with one scale each."""


def write(checkpoint: Path, target: Path, kind: str) -> None:
    """Write a checkpoint's weights as a GGUF without a vocabulary.

    Args:
        checkpoint: A folder with a config and safetensors.
        target: The file to write.
        kind: One of `TYPES`.

    Source:
        llama.cpp's convert_hf_to_gguf.py, the keys and names of `qwen3`.
    """
    config = Qwen3Config.from_pretrained(checkpoint)
    writer = gguf.GGUFWriter(target, "qwen3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                _add(writer, name, file.get_tensor(name), TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(
    writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, kind: gguf.GGMLQuantizationType
) -> None:
    values = tensor.float().numpy()
    if tensor.dim() == 1:
        writer.add_tensor(_gguf_name(name), values)
    else:
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)


def _gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        index, _, rest = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{index}.{_NAMES[rest]}.weight"
    return f"{_NAMES[stem]}.weight"
