"""The dense network: a prompt's vector and a model's learned one, to a score in 0..1.

Shape suffixes: B = prompts of a batch, P = all prompts; M = candidate models; D = numbers of a
prompt's vector; E = of a model's; H = width of the hidden layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST_STD = 1e-3
"""Of a number, in parts of what is usual among the others: one that never moved in training must
not drown the rest when it does."""


class DenseNetwork(nn.Module):
    """Scores every candidate model for every prompt, each pair apart from all others.

    Args:
        vector_size: D.
        num_models: M of all candidates.
        model_size: E.
        hidden_size: H.
        dropout: Share of the hidden numbers that training leaves out.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(
        self,
        vector_size: int,
        num_models: int,
        *,
        model_size: int,
        hidden_size: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(vector_size))
        self.register_buffer("std_D", torch.ones(vector_size))
        self.norm = nn.LayerNorm(vector_size)
        self.of_prompt = nn.Linear(vector_size, hidden_size)
        self.models = nn.Embedding(num_models, model_size)
        self.of_model = nn.Linear(model_size, hidden_size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, 1)

    def fit_features(self, vectors_PD: Tensor) -> None:
        """Take over the mean and the spread of training prompts' vectors.

        The vectors of a decoder mostly point one way; what tells prompts apart is small beside it.
        """
        std_D = vectors_PD.std(0, correction=0)
        least = LEAST_STD * std_D.mean().clamp_min(1e-12)
        self.mean_D.copy_(vectors_PD.mean(0))
        self.std_D.copy_(std_D.clamp_min(float(least)))

    def forward(self, vectors_BD: Tensor, models_M: Tensor) -> Tensor:
        """Return the logits of the scores.

        Args:
            vectors_BD: fp32, on the network's device.
            models_M: int64 indices of candidates.

        Returns:
            fp32 of shape (B, M); the sigmoid of a logit is the score.
        """
        of_prompt_BH = self.of_prompt(self.norm((vectors_BD - self.mean_D) / self.std_D))
        of_model_MH = self.of_model(self.models(models_M))
        pair_BMH = functional.gelu(of_prompt_BH[:, None] + of_model_MH)
        pair_BMH = functional.gelu(self.hidden(self.dropout(pair_BMH)))
        logits_BM: Tensor = self.out(pair_BMH).squeeze(-1)
        return logits_BM
