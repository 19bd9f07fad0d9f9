"""Load a model that makes embeddings, and run batches of inputs through it.

Any model of transformers' AutoModel that reads tokens and gives a hidden state for each: encoders
as they are, decoders with their own causal attention. An input's vector does not depend on what
else is in its batch, but for rounding.

Shape suffixes (this file): B = inputs; T = positions; D = numbers of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from worker.engine.errors import ModelLoadError
from worker.engine.loader import (
    INT8,
    Progress,
    check_device,
    choose_dtype,
    find_revision,
    load_config,
    load_tokenizer,
    load_weights,
    one_line,
    round_to_int8,
)
from worker.engine.pooling import Pooling, read_pooling

logger = logging.getLogger(__name__)

MOST_PADDING = 2
"""Inputs run together where the longest is at most so many times as long as the shortest."""
UNUSED_WEIGHTS = ("pooler.",)
"""Of what comes after the last hidden state; checkpoints often lack it."""
NO_LIMIT = 10**9  # a tokenizer that does not know its limit states one of 10**30


@dataclass
class Embedder:
    """A model that is ready to run.

    Attributes:
        model: In eval mode.
        tokenizer: A fast tokenizer.
        pooling: How vectors are made.
        precision: Of the weights: a dtype's name, or `int8`.
        context_length: Tokens of an input, at most.
        vocab_size: Token ids are below this.
        size: Numbers of a vector.
        num_parameters: Of the checkpoint.
        revision: The hub's commit, or a hash over the files; and the pooling.
        architecture: The model class's name.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    pooling: Pooling
    precision: str
    context_length: int
    vocab_size: int
    size: int
    num_parameters: int
    revision: str
    architecture: str

    def embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the vectors of some inputs.

        Args:
            rows: Token ids, at least one and at most `context_length` for each input.

        Returns:
            fp32 of shape (B, D), on the CPU, in the order of the inputs.
        """
        return embed(self.model, self.pooling, rows)


@torch.inference_mode()
def embed(model: PreTrainedModel, pooling: Pooling, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the vectors of inputs, fp32 of shape (B, D) on the CPU; see `Embedder.embed`."""
    parts = similar([len(row) for row in rows])
    found = [_embed_together(model, pooling, [rows[i] for i in part]) for part in parts]
    order = torch.tensor([index for part in parts for index in part])
    return torch.cat(found)[torch.argsort(order)]


def similar(lengths: Sequence[int]) -> list[list[int]]:
    """Divide inputs, by their index, into parts that are worth padding to one length."""
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if parts and lengths[parts[-1][0]] <= MOST_PADDING * lengths[index]:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _embed_together(
    model: PreTrainedModel, pooling: Pooling, rows: Sequence[Sequence[int]]
) -> Tensor:
    longest = max(map(len, rows))
    pad_id = max(0, model.config.get_text_config().pad_token_id or 0)  # some say -1 for none
    ids = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    mask_BT = torch.tensor(mask, device=model.device)
    output = model(input_ids=torch.tensor(ids, device=model.device), attention_mask=mask_BT)
    return pooling.pool(output.last_hidden_state, mask_BT).cpu()


def load_embedder(
    name_or_path: str, *, device: str, dtype: str, progress: Progress | None = None
) -> Embedder:
    """Load a model from a local directory or from the Hugging Face hub or its cache.

    Args:
        name_or_path: A directory, which is read without any network, or a hub name.
        device: As for `worker.engine.loader.load_model`.
        dtype: As there.
        progress: Called with one line per stage.

    Raises:
        ModelLoadError: The model cannot be served; the message is one line.
    """
    report = progress or (lambda line: None)
    target = check_device(device, dtype)
    report(f"reading the config of {name_or_path}")
    pooling = read_pooling(name_or_path)
    source = _source(name_or_path, pooling)
    config = load_config(source)
    _check_config(name_or_path, config)
    report("loading the tokenizer")
    tokenizer = load_tokenizer(source)
    chosen = choose_dtype(dtype, config, target, AutoModel)
    report(f"loading the weights as {str(chosen).removeprefix('torch.')} onto {target}")
    model = load_weights(source, config, chosen, target, AutoModel, UNUSED_WEIGHTS)
    num_parameters, precision = model.num_parameters(), str(model.dtype).removeprefix("torch.")
    if dtype == INT8:
        precision = INT8
        report(f"rounded {round_to_int8(name_or_path, model)} linear layers to int8")
    stated = "as its files say" if pooling.is_stated else "for it has no files that say"
    report(f"pooling by {pooling}, {stated}")
    return Embedder(
        model=model,
        tokenizer=tokenizer,
        pooling=pooling,
        precision=precision,
        context_length=_context_length(model, tokenizer, pooling),
        vocab_size=_vocab_size(model),
        size=_size(name_or_path, model, pooling),
        num_parameters=num_parameters,
        revision=f"{find_revision(source)}+{pooling}",
        architecture=type(model).__name__,
    )


def _source(name: str, pooling: Pooling) -> str:
    if not pooling.subfolder:
        return name
    if not Path(name).is_dir():
        raise ModelLoadError(
            f"model {name!r} keeps its weights in {pooling.subfolder!r}: download it and name the "
            "folder"
        )
    return str(Path(name) / pooling.subfolder)


def _check_config(name: str, config: PreTrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise ModelLoadError(
            f"model {name!r} is an encoder with a decoder ({config.model_type}), which cannot make "
            "embeddings here"
        )
    for part in (config, config.get_text_config()):
        if getattr(part, "use_cache", None):
            part.use_cache = False  # nothing is generated


def _vocab_size(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _size(name: str, model: PreTrainedModel, pooling: Pooling) -> int:
    """Run one token through the model: what it lacks shows now, not at the first request."""
    try:
        return embed(model, pooling, [[0]]).shape[1]
    except Exception as error:
        raise ModelLoadError(
            f"model {name!r} ({type(model).__name__}) makes no embeddings: {one_line(error)}"
        ) from error


def _context_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pooling: Pooling
) -> int:
    positions = _num_positions(model)
    stated = pooling.max_tokens or int(min(tokenizer.model_max_length, NO_LIMIT))
    length = min(stated, positions)
    if length >= NO_LIMIT:
        raise ModelLoadError(
            f"a {model.config.model_type} model does not say how long its context is"
        )
    return length


def _num_positions(model: PreTrainedModel) -> int:
    """Positions that the model can tell apart."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count from behind the padding's id.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    config: Any = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
