"""The weights of a dense network, as bytes and back."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from common.errors import ScorerError
from worker.scoring.config import ScorerConfig
from worker.scoring.network import DenseNetwork


def new_network(config: ScorerConfig, dropout: float = 0.0) -> DenseNetwork:
    """A network of a config's sizes, with random weights."""
    return DenseNetwork(
        config.encoder.vector_size,
        len(config.models),
        model_size=config.network.model_size,
        hidden_size=config.network.hidden_size,
        dropout=dropout,
    )


def pack(network: DenseNetwork) -> bytes:
    """The weights as safetensors."""
    return save({name: each.contiguous().cpu() for name, each in network.state_dict().items()})


def unpack(config: ScorerConfig, weights: bytes) -> DenseNetwork:
    """The inverse of `pack`: a network on the CPU, in eval mode.

    Raises:
        ScorerError: The weights are not safetensors, do not fit the config, or are not finite.
    """
    network = new_network(config)
    try:
        network.load_state_dict(load(weights), strict=True)
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ScorerError(f"the weights do not fit config.json: {reason}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise ScorerError("the weights hold numbers that are not finite")
    return network.eval()
