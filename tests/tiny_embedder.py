"""Tiny random encoders of several families, with a tokenizer of bytes, written to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

PAD, CLS, SEP = 1, 0, 2
SPECIAL = {"<s>": CLS, "<pad>": PAD, "</s>": SEP}
VOCAB = 256 + len(SPECIAL)
POSITIONS = 66
SIZE = 32

FAMILIES = ("bert", "roberta", "mpnet", "modernbert", "llama")


def write_tiny_embedder(
    path: Path,
    family: str = "bert",
    *,
    seed: int = 0,
    pooling: dict[str, Any] | None = None,
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    max_seq_length: int | None = None,
    **config: Any,
) -> Path:
    """Write config, weights and tokenizer; the same seed gives the same model.

    Args:
        path: The folder.
        family: One of `FAMILIES`.
        seed: Of the weights.
        pooling: The content of `1_Pooling/config.json`; None: no files of sentence-transformers.
        modules: Of `modules.json`, where there is a pooling.
        max_seq_length: As those files state it.
        config: More of the model's config.
    """
    torch.manual_seed(seed)
    AutoModel.from_config(_config(family, config)).eval().save_pretrained(path)
    _tokenizer().save_pretrained(path)
    if pooling is not None:
        listed = [
            {"idx": i, "path": "" if i == 0 else f"{i}_{kind}", "type": f"st.models.{kind}"}
            for i, kind in enumerate(modules)
        ]
        (path / "modules.json").write_text(json.dumps(listed))
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if max_seq_length is not None:
        stated = json.dumps({"max_seq_length": max_seq_length, "do_lower_case": False})
        (path / "sentence_bert_config.json").write_text(stated)
    return path


def _config(family: str, more: dict[str, Any]) -> PreTrainedConfig:
    kinds: dict[str, Any] = {
        "bert": BertConfig,
        "roberta": RobertaConfig,
        "mpnet": MPNetConfig,
        "modernbert": ModernBertConfig,
        "llama": LlamaConfig,
    }
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": PAD,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        "cls_token_id": CLS,
        "sep_token_id": SEP,
        "initializer_range": 0.4,  # so that vectors are not all alike
    }
    config: PreTrainedConfig = kinds[family](**fields | more)
    return config


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = SPECIAL | {char: i + len(SPECIAL) for i, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", CLS), ("</s>", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        bos_token="<s>",
        eos_token="</s>",
    )
