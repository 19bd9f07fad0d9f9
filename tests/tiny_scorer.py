"""A scorer with random weights, for a tiny encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from worker.engine.embedder import load_embedder
from worker.scoring.config import EncoderConfig, NetworkConfig, ScorerConfig
from worker.scoring.storage import ScorerFiles
from worker.scoring.weights import new_network, pack

MODELS = ("gpt-3.5-turbo", "gpt-4", "claude-2")


def write_tiny_scorer(
    root: Path,
    encoder: Path,
    name: str = "tiny",
    *,
    models: Sequence[str] = MODELS,
    seed: int = 0,
    revision: str | None = None,
) -> Path:
    """Save a scorer below a root; the same seed gives the same one.

    Args:
        root: As SCORERS_DIR.
        encoder: The folder of a model.
        name: Of the scorer.
        models: Its candidates.
        seed: Of the weights.
        revision: Of the encoder; None: as it is.
    """
    embedder = load_embedder(str(encoder), device="cpu", dtype="float32")
    config = ScorerConfig(
        encoder=EncoderConfig(
            name=str(encoder),
            revision=revision or embedder.revision,
            precision="float32",
            vector_size=embedder.size,
            context_length=embedder.context_length,
        ),
        models=list(models),
        network=NetworkConfig(model_size=4, hidden_size=8),
    )
    torch.manual_seed(seed)
    network = new_network(config)
    torch.nn.init.normal_(network.out.weight, std=3.0)  # so that scores are not all alike
    return ScorerFiles(root).save(name, config, pack(network), {})
