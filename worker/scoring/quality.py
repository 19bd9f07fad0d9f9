"""How good scores are: their errors, their calibration, and how often they name the best model.

Ratings may be missing (NaN). Knows nothing about networks.

Shape suffixes: P = prompts; M = candidate models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_BINS = 10
MAX_PAIRS = 1 << 22
"""That are compared at once."""
TIE = 1e-6
"""Ratings that differ by less are equally good."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Of scores, on prompts that are rated.

    Attributes:
        rmse: Root of the mean squared difference of score and rating.
        mae: Mean absolute difference.
        ranking_accuracy: Share of the prompts whose top-scored model is (one of) the best rated;
            prompts with one rated model, or with equal ratings alone, do not count.
        pairwise_accuracy: Share of the pairs of models, rated differently for a prompt, that the
            scores put into the same order; equal scores are half of one.
    """

    rmse: float
    mae: float
    ranking_accuracy: float
    pairwise_accuracy: float


def quality(scores_PM: Tensor, ratings_PM: Tensor) -> Quality:
    """Compare scores with ratings."""
    errors = (scores_PM - ratings_PM)[~ratings_PM.isnan()]
    return Quality(
        rmse=float(errors.square().mean().sqrt()),
        mae=float(errors.abs().mean()),
        ranking_accuracy=ranking_accuracy(scores_PM, ratings_PM),
        pairwise_accuracy=_pairwise(scores_PM, ratings_PM),
    )


def baseline(train_PM: Tensor, ratings_PM: Tensor) -> Quality:
    """The best that constants could do: one score for each model, whatever the prompt.

    The errors are those of each model's mean over the training prompts. For the ranking, the one
    model is named that is best most often on the very prompts that are compared.

    Args:
        train_PM: The ratings of the training prompts.
        ratings_PM: Those to compare with.
    """
    means_M = train_PM.nanmean(0).nan_to_num(float(train_PM.nanmean()))
    found = quality(means_M.expand_as(ratings_PM), ratings_PM)
    one_hot_MM = torch.eye(ratings_PM.shape[1])
    best = max(ranking_accuracy(row_M.expand_as(ratings_PM), ratings_PM) for row_M in one_hot_MM)
    return Quality(found.rmse, found.mae, best, found.pairwise_accuracy)


def ranking_accuracy(scores_PM: Tensor, ratings_PM: Tensor) -> float:
    """See `Quality`; NaN where no prompt counts."""
    is_rated_PM = ~ratings_PM.isnan()
    best_P = ratings_PM.nan_to_num(-torch.inf).amax(1)
    worst_P = ratings_PM.nan_to_num(torch.inf).amin(1)
    counts_P = (is_rated_PM.sum(1) > 1) & (best_P - worst_P > TIE)
    chosen_P = scores_PM.masked_fill(~is_rated_PM, -torch.inf).argmax(1)
    of_chosen_P = ratings_PM.gather(1, chosen_P[:, None]).squeeze(1)
    return float((of_chosen_P >= best_P - TIE)[counts_P].float().mean())


def _pairwise(scores_PM: Tensor, ratings_PM: Tensor) -> float:
    points, num_pairs = 0.0, 0
    rows = max(1, MAX_PAIRS // ratings_PM.shape[1] ** 2)
    for scores_BM, ratings_BM in zip(
        torch.split(scores_PM, rows), torch.split(ratings_PM, rows), strict=True
    ):
        is_pair_BMM = ratings_BM[:, :, None] - ratings_BM[:, None, :] > TIE  # not where one is NaN
        scored_BMM = scores_BM[:, :, None] - scores_BM[:, None, :]
        points += float((scored_BMM.sign()[is_pair_BMM] + 1).sum()) / 2
        num_pairs += int(is_pair_BMM.sum())
    return points / num_pairs if num_pairs else math.nan


@dataclass(frozen=True, slots=True)
class Bin:
    """Scores that are about the same, and how the answers were rated.

    Attributes:
        score: Their mean.
        rating: The mean of the ratings.
        count: Pairs of a prompt and a model.
    """

    score: float
    rating: float
    count: int


def calibration(scores_PM: Tensor, ratings_PM: Tensor) -> list[Bin]:
    """Divide the scores into ten equal parts of 0..1; parts without any are left out."""
    is_rated_PM = ~ratings_PM.isnan()
    scores, ratings = scores_PM[is_rated_PM], ratings_PM[is_rated_PM]
    numbers = (scores * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    return [
        Bin(float(scores[part].mean()), float(ratings[part].mean()), int(part.sum()))
        for part in (numbers == number for number in range(NUM_BINS))
        if bool(part.any())
    ]
