"""How good scores are: their errors, their calibration, and how often they name the best model.

Ratings may be missing (NaN). Knows nothing about networks.

Shape suffixes: P = prompts; M = candidate models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

NUM_BINS = 10
MAX_PAIRS = 1 << 22
"""That are compared at once."""
TIE = 1e-6
"""Ratings that differ by less are equally good."""
MAX_ORDERED = 10
"""Models whose best order is searched for: of so many, in a part of a second."""


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


def baseline(ratings_PM: Tensor) -> Quality:
    """The best that constants could do: one score for each model, whatever the prompt.

    Each figure is of the constants that are best for it on the very prompts that are compared:
    means for the RMSE, medians for the MAE, and the best order of the models for either accuracy.
    Of more than `MAX_ORDERED` models the accuracies are upper bounds, which constants may not
    reach: of all pairs the order that is right more often, and of each set of models that were
    rated together the one that is best most often.
    """
    means_M, medians_M = ratings_PM.nanmean(0), ratings_PM.nanmedian(0).values
    return Quality(
        rmse=quality(means_M.expand_as(ratings_PM), ratings_PM).rmse,
        mae=quality(medians_M.expand_as(ratings_PM), ratings_PM).mae,
        ranking_accuracy=_constant_ranking(ratings_PM),
        pairwise_accuracy=_constant_pairwise(ratings_PM),
    )


def _constant_ranking(ratings_PM: Tensor) -> float:
    is_best_PM, counts_P = _best(ratings_PM)
    is_best_PM, is_rated_PM = is_best_PM[counts_P], ~ratings_PM[counts_P].isnan()

    def named_next(is_above_M: Tensor) -> Tensor:
        """Prompts that each model decides, rightly, below those that come before it."""
        return is_best_PM[~is_rated_PM[:, is_above_M].any(1)].sum(0)

    if not len(is_best_PM):
        return math.nan
    if ratings_PM.shape[1] <= MAX_ORDERED:
        return _best_order(ratings_PM.shape[1], named_next) / len(is_best_PM)
    sets_SM, set_P = cast(Any, torch).unique(is_rated_PM, dim=0, return_inverse=True)
    found_SM = torch.zeros_like(sets_SM, dtype=torch.float).index_add_(0, set_P, is_best_PM.float())
    return float(found_SM.amax(1).sum()) / len(is_best_PM)


def _constant_pairwise(ratings_PM: Tensor) -> float:
    parts = torch.split(ratings_PM, _rows(ratings_PM))
    wins_MM = torch.stack([_is_better(ratings_BM).sum(0) for ratings_BM in parts]).sum(0)
    num_pairs = int(wins_MM.sum())
    if not num_pairs:
        return math.nan
    if len(wins_MM) <= MAX_ORDERED:
        most = _best_order(len(wins_MM), lambda is_above_M: wins_MM[:, ~is_above_M].sum(1))
        return most / num_pairs
    return int(torch.maximum(wins_MM, wins_MM.T).triu().sum()) / num_pairs


def _best_order(num_models: int, points: Callable[[Tensor], Tensor]) -> int:
    """The most points of any order, by dynamic programming over the sets that come first.

    Args:
        num_models: M; there are 2**M sets.
        points: What each model [M] gets as the next one below those of a set, a mask [M].
    """
    most = [0] * (1 << num_models)
    for above in range(len(most)):
        rest = [m for m in range(num_models) if not above >> m & 1]
        is_above_M = torch.ones(num_models, dtype=torch.bool)
        is_above_M[rest] = False
        points_M = points(is_above_M).tolist()
        for m in rest:
            most[above | 1 << m] = max(most[above | 1 << m], most[above] + points_M[m])
    return most[-1]


def ranking_accuracy(scores_PM: Tensor, ratings_PM: Tensor) -> float:
    """See `Quality`; NaN where no prompt counts."""
    is_best_PM, counts_P = _best(ratings_PM)
    chosen_P = scores_PM.masked_fill(ratings_PM.isnan(), -torch.inf).argmax(1)
    return float(is_best_PM.gather(1, chosen_P[:, None])[counts_P].float().mean())


def _best(ratings_PM: Tensor) -> tuple[Tensor, Tensor]:
    """Which models [P, M] are best for a prompt, and which prompts [P] have a worse one."""
    best_P = ratings_PM.nan_to_num(-torch.inf).amax(1)
    worst_P = ratings_PM.nan_to_num(torch.inf).amin(1)
    return ratings_PM >= best_P[:, None] - TIE, best_P - worst_P > TIE


def _pairwise(scores_PM: Tensor, ratings_PM: Tensor) -> float:
    points, num_pairs = 0.0, 0
    rows = _rows(ratings_PM)
    for scores_BM, ratings_BM in zip(
        torch.split(scores_PM, rows), torch.split(ratings_PM, rows), strict=True
    ):
        is_pair_BMM = _is_better(ratings_BM)
        scored_BMM = scores_BM[:, :, None] - scores_BM[:, None, :]
        points += float((scored_BMM.sign()[is_pair_BMM] + 1).sum()) / 2
        num_pairs += int(is_pair_BMM.sum())
    return points / num_pairs if num_pairs else math.nan


def _rows(ratings_PM: Tensor) -> int:
    """Prompts whose pairs are compared at once."""
    return max(1, MAX_PAIRS // ratings_PM.shape[1] ** 2)


def _is_better(ratings_BM: Tensor) -> Tensor:
    """[B, M, M]: whether the first model is rated better; False where one is NaN."""
    return ratings_BM[:, :, None] - ratings_BM[:, None, :] > TIE


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
