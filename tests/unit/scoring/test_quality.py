"""Figures of scores, on examples that a person can compute."""

from __future__ import annotations

import itertools
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


def test_the_baseline_names_the_model_that_is_best_most_often() -> None:
    found = baseline(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    assert found.ranking_accuracy == pytest.approx(2 / 3)
    assert found.pairwise_accuracy == pytest.approx(2 / 3)


def test_the_errors_of_the_baseline_are_of_the_best_constant_for_each() -> None:
    found = baseline(torch.tensor([[0.0, NAN], [0.0, 0.5], [0.9, NAN]]))
    assert found.rmse == pytest.approx(math.sqrt((0.09 + 0.09 + 0.36 + 0) / 4))  # means: 0.3, 0.5
    assert found.mae == pytest.approx(0.9 / 4)  # medians: 0.0, 0.5


def test_the_baseline_orders_the_models_so_that_most_pairs_are_right() -> None:
    # Each of the models beats the next one in two prompts of three, and the last beats the first:
    # an order can have two of these right, and has the third wrong: 2 + 2 + 1 of 9.
    ratings = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.9, 0.5], [0.5, 0.1, 0.9]])
    assert baseline(ratings).pairwise_accuracy == pytest.approx(5 / 9)


def test_the_means_may_order_the_models_worse_than_the_baseline_does() -> None:
    ratings = torch.tensor([[0.5, 0.4], [0.5, 0.4], [0.0, 1.0]])  # means: 0.33, 0.6
    assert baseline(ratings).pairwise_accuracy == pytest.approx(2 / 3)


def test_the_baseline_knows_whom_to_name_where_its_first_model_was_not_rated() -> None:
    ratings = torch.tensor([[0.1, 0.9, NAN], [0.1, NAN, 0.9]])
    assert baseline(ratings).ranking_accuracy == 1


def test_of_many_models_the_baseline_is_a_bound_that_no_constants_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ratings = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    ratings[ratings < 0.2] = NAN
    exact = baseline(ratings)
    monkeypatch.setattr(module, "MAX_ORDERED", 3)
    bound = baseline(ratings)
    orders = [torch.tensor(order).expand(20, 4) for order in itertools.permutations(range(4))]
    reached = [quality(order.float(), ratings) for order in orders]
    assert exact.ranking_accuracy == pytest.approx(max(each.ranking_accuracy for each in reached))
    assert exact.pairwise_accuracy == pytest.approx(max(each.pairwise_accuracy for each in reached))
    assert exact.ranking_accuracy <= bound.ranking_accuracy < 1
    assert exact.pairwise_accuracy <= bound.pairwise_accuracy < 1


def test_the_bound_for_many_models_takes_each_pair_in_its_better_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_ORDERED", 2)
    ratings = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.9, 0.5], [0.5, 0.1, 0.9]])
    assert baseline(ratings).pairwise_accuracy == pytest.approx(6 / 9)


def test_where_no_prompt_counts_the_baseline_has_no_accuracy() -> None:
    found = baseline(torch.tensor([[0.5, 0.5]]))
    assert math.isnan(found.ranking_accuracy)
    assert math.isnan(found.pairwise_accuracy)


def test_calibration_puts_scores_into_tenths() -> None:
    scores = torch.tensor([[0.05, 0.05, 1.0], [0.31, 0.39, 0.0]])
    ratings = torch.tensor([[0.0, 0.1, 0.9], [0.2, 0.4, NAN]])
    found = [(round(b.score, 3), round(b.rating, 3), b.count) for b in calibration(scores, ratings)]
    assert found == [(0.05, 0.05, 2), (0.35, 0.3, 2), (1.0, 0.9, 1)]
