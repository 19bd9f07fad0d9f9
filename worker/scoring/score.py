"""A scorer that is ready: from the vectors of prompts to the scores of candidate models.

Knows nothing about encoders or jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from common.errors import ScorerError
from common.model_entries import Source
from common.scorers import check_candidates, reference
from worker.scoring.config import ScorerConfig
from worker.scoring.network import DenseNetwork
from worker.scoring.storage import ScorerFiles, told
from worker.scoring.weights import unpack

MAX_PAIRS = 65_536
"""Of prompts and models that are computed together: 32 MiB in each layer of 128 numbers."""


class Scorer:
    """A network with the names of its candidates.

    Args:
        name: Of the scorer, for errors.
        config: As it was saved.
        network: In eval mode; it is moved to the device.
        device: Where to compute.
    """

    def __init__(
        self, name: str, config: ScorerConfig, network: DenseNetwork, device: str = "cpu"
    ) -> None:
        self.name = name
        self.config = config
        self._network = network.to(device)
        self._device = device
        self._indices = {model: index for index, model in enumerate(config.models)}

    def check(self, models: Sequence[str]) -> Self:
        """Check that the scorer knows models; returns the scorer.

        Raises:
            InvalidRequestError: It does not know one of them.
        """
        check_candidates(self.name, self.config.models, models)
        return self

    def check_encoder(self, revision: str) -> Self:
        """Check that an encoder is the one that the scorer was trained with; returns the scorer.

        Raises:
            ScorerError: It is another one, or its files have changed.
        """
        trained = self.config.encoder
        if revision != trained.revision:
            encoder = Source.of(trained.name).model
            raise ScorerError(
                f"Scorer '{reference(self.name)}' was trained with another revision of its encoder "
                f"'{encoder}': {_short(trained.revision)}, not {_short(revision)}. Train it again."
            )
        return self

    @torch.inference_mode()
    def score(self, vectors_PD: Tensor, models: Sequence[str], *, batch_size: int) -> Tensor:
        """Score models for prompts.

        Args:
            vectors_PD: fp32, the prompts' vectors.
            models: Candidates that were checked.
            batch_size: Prompts that are computed together, at most; scores do not depend on it.

        Returns:
            fp32 of shape (P, M), on the CPU, each in 0..1.
        """
        indices_M = torch.tensor([self._indices[model] for model in models], device=self._device)
        rows = max(1, min(batch_size, MAX_PAIRS // len(models)))
        scores = [
            torch.cat(
                [
                    self._network(vectors_BD, part_M).sigmoid()
                    for part_M in torch.split(indices_M, MAX_PAIRS)
                ],
                dim=1,
            ).cpu()
            for vectors_BD in torch.split(vectors_PD.to(self._device), rows)
        ]
        return torch.cat(scores)


def _short(revision: str) -> str:
    digest, plus, pooling = revision.partition("+")
    return digest[:12] + plus + pooling


def load_scorer(files: ScorerFiles, name: str, device: str) -> Scorer:
    """Load a saved scorer onto a device.

    Raises:
        ScorerNotFoundError: There is no such scorer.
        ScorerError: It cannot be used; the message says why in one line.
    """
    config, weights = files.read(name)
    with told(name):
        return Scorer(name, config, unpack(config, weights), device)
