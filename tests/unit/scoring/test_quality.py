"""Figures of scores, on examples that a person can compute."""

from __future__ import annotations

import math

import pytest
import torch

from worker.scoring import quality as module
from worker.scoring.quality import baseline, calibration, quality, ranking_accuracy

NAN = math.nan


def test_errors_are_those_of_what_was_rated() -> None:
    found = quality(torch.tensor([[0.5, 0.9], [0.2, 0.2]]), torch.tensor([[0.2, NAN], [0.2, 0.6]]))
    assert found.mae == pytest.approx(0.7 / 3)
    assert found.rmse == pytest.approx(math.sqrt((0.09 + 0.16) / 3))


def test_ranking_accuracy_is_the_share_of_prompts_whose_best_model_is_named() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    ratings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.4], [0.0, 1.0]])
    assert ranking_accuracy(scores, ratings) == 0.75


def test_any_of_several_best_models_is_right() -> None:
    ratings = torch.tensor([[0.8, 0.8, 0.1]])
    assert ranking_accuracy(torch.tensor([[0.1, 0.9, 0.5]]), ratings) == 1
    assert ranking_accuracy(torch.tensor([[0.1, 0.2, 0.5]]), ratings) == 0


def test_a_model_that_was_not_rated_is_not_chosen() -> None:
    assert ranking_accuracy(torch.tensor([[0.1, 0.2, 0.9]]), torch.tensor([[0.1, 0.8, NAN]])) == 1


def test_prompts_without_a_worse_model_do_not_count() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    ratings = torch.tensor([[0.5, NAN], [0.5, 0.5], [0.1, 0.9]])
    assert ranking_accuracy(scores, ratings) == 0


def test_where_no_prompt_counts_there_is_no_accuracy() -> None:
    found = quality(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]))
    assert math.isnan(found.ranking_accuracy)
    assert math.isnan(found.pairwise_accuracy)


def test_pairs_count_one_in_order_and_a_half_where_scores_are_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = torch.tensor([[0.9, 0.5, 0.5], [0.1, 0.2, 0.3]])
    ratings = torch.tensor([[0.9, 0.5, 0.4], [0.3, 0.2, NAN]])
    expected = (1 + 1 + 0.5 + 0) / 4
    assert quality(scores, ratings).pairwise_accuracy == expected
    monkeypatch.setattr(module, "MAX_PAIRS", 1)  # a prompt at a time
    assert quality(scores, ratings).pairwise_accuracy == expected


def test_the_baseline_names_the_model_that_is_best_most_often_on_what_is_compared() -> None:
    train = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    ratings = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    found = baseline(train, ratings)
    assert found.ranking_accuracy == pytest.approx(2 / 3)  # model 1, though training says model 0
    assert found.pairwise_accuracy == pytest.approx(1 / 3)
    assert found.mae == pytest.approx((0.8 + 0.8 + 0.8 + 0.8 + 0.2 + 0.2) / 6)


def test_calibration_puts_scores_into_tenths() -> None:
    scores = torch.tensor([[0.05, 0.05, 1.0], [0.31, 0.39, 0.0]])
    ratings = torch.tensor([[0.0, 0.1, 0.9], [0.2, 0.4, NAN]])
    found = [(round(b.score, 3), round(b.rating, 3), b.count) for b in calibration(scores, ratings)]
    assert found == [(0.05, 0.05, 2), (0.35, 0.3, 2), (1.0, 0.9, 1)]
