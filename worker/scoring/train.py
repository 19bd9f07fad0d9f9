"""Trains a dense network on ratings and the vectors of their prompts.

The prompts are divided by their hash into those that are learned from, those that say when to stop,
and those that are held out for the figures. The same ratings, encoder, seed and kind of device give
the same network. Knows nothing about files.

Shape suffixes: P = prompts; B = prompts of a batch; M = candidate models; D = numbers of a vector.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.scoring.network import DenseNetwork
from worker.scoring.quality import Bin, Quality, baseline, calibration, quality
from worker.scoring.ratings import Ratings

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train.

    Attributes:
        seed: Of the first weights, the order of the prompts and the dropout.
        max_epochs: At most.
        patience: Epochs without a better validation error after which training ends.
        batch_size: Prompts of a step.
    """

    seed: int = 0
    max_epochs: int = 200
    patience: int = 15
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the prompts came to: losses in nats per rating, and a validation error."""

    number: int
    train_loss: float
    validation_rmse: float


class Split(NamedTuple, Generic[T]):
    """Something of each of the three parts."""

    train: T
    validation: T
    test: T


@dataclass(frozen=True, slots=True)
class Trained:
    """What training came to.

    Attributes:
        best: The epoch whose weights were kept.
        num_epochs: That were run.
        num_prompts: Learned from, deciding when to stop, held out.
        validation: Of the prompts that say when to stop.
        held_out: Of the prompts that nothing was chosen by.
        constants: The best constant scores, on the held-out prompts.
        bins: Calibration on the held-out prompts.
    """

    best: Epoch
    num_epochs: int
    num_prompts: Split[int]
    validation: Quality
    held_out: Quality
    constants: Quality
    bins: list[Bin]


def split_prompts(prompts: Sequence[str]) -> Split[Tensor]:
    """Divide prompts, by their index: at least one to validate with, and one to hold out.

    By hashes and not by their order, so that sorted ratings are divided as any others.
    """
    hashes = [hashlib.sha256(prompt.encode()).digest() for prompt in prompts]
    order = torch.tensor(sorted(range(len(prompts)), key=lambda index: hashes[index]))
    num_test = math.ceil(TEST_SHARE * len(prompts))
    num_validation = math.ceil(VALIDATION_SHARE * len(prompts))
    held_out = num_test + num_validation
    return Split(order[held_out:], order[num_test:held_out], order[:num_test])


def train(
    network: DenseNetwork,
    vectors_PD: Tensor,
    ratings: Ratings,
    options: TrainOptions,
    on_epoch: Callable[[Epoch], object] = lambda epoch: None,
) -> Trained:
    """Train a network in place; at the end it has its best weights, and is in eval mode.

    Args:
        network: Fresh, of the ratings' number of models; its first weights are drawn anew.
        vectors_PD: fp32, one for each prompt, on the network's device.
        ratings: What to learn.
        options: How.
        on_epoch: Called after each epoch.
    """
    parts = split_prompts(ratings.prompts)
    device = vectors_PD.device
    targets_PM = ratings.scores_PM.to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(options.seed)
        network.apply(_draw_weights)
        network.fit_features(vectors_PD[parts.train])
        best, num_epochs = _fit(network, vectors_PD, targets_PM, parts, options, on_epoch)
    scores = Split(*(_scores(network, vectors_PD[part]).cpu() for part in parts))
    truth = Split(*(ratings.scores_PM[part] for part in parts))
    return Trained(
        best=best,
        num_epochs=num_epochs,
        num_prompts=Split(*map(len, parts)),
        validation=quality(scores.validation, truth.validation),
        held_out=quality(scores.test, truth.test),
        constants=baseline(truth.test),
        bins=calibration(scores.test, truth.test),
    )


def _fit(
    network: DenseNetwork,
    vectors_PD: Tensor,
    targets_PM: Tensor,
    parts: Split[Tensor],
    options: TrainOptions,
    on_epoch: Callable[[Epoch], object],
) -> tuple[Epoch, int]:
    """Run epochs until the validation error has not fallen for a while; keep the best weights."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    best, weights = Epoch(0, math.inf, math.inf), copy.deepcopy(network.state_dict())
    number = 0
    for number in range(1, options.max_epochs + 1):
        network.train()
        order = parts.train[torch.randperm(len(parts.train))]
        losses = [
            _step(network, optimizer, vectors_PD[batch], targets_PM[batch])
            for batch in torch.split(order, options.batch_size)
        ]
        scores_PM = _scores(network, vectors_PD[parts.validation])
        rmse = quality(scores_PM.cpu(), targets_PM[parts.validation].cpu()).rmse
        epoch = Epoch(number, sum(losses) / len(losses), rmse)
        on_epoch(epoch)
        if rmse < best.validation_rmse:
            best, weights = epoch, copy.deepcopy(network.state_dict())
        elif number - best.number >= options.patience:
            break
    network.load_state_dict(weights)
    network.eval()
    return best, number


def _step(
    network: DenseNetwork, optimizer: torch.optim.Optimizer, vectors_BD: Tensor, targets_BM: Tensor
) -> float:
    is_rated_BM = ~targets_BM.isnan()
    logits_BM = network(vectors_BD, _all_models(network))
    # Not the squared error: where the sigmoid is flat, that would hardly move a wrong score.
    loss = functional.binary_cross_entropy_with_logits(
        logits_BM[is_rated_BM], targets_BM[is_rated_BM]
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _scores(network: DenseNetwork, vectors_PD: Tensor) -> Tensor:
    network.eval()
    models_M = _all_models(network)
    parts = [network(vectors_BD, models_M).sigmoid() for vectors_BD in torch.split(vectors_PD, 256)]
    return torch.cat(parts)


def _all_models(network: DenseNetwork) -> Tensor:
    return torch.arange(network.models.num_embeddings, device=network.mean_D.device)


def _draw_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
        module.reset_parameters()
