"""Training on vectors made by hand, whose prompts differ in which model is best."""

from __future__ import annotations

import hashlib
import json
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from worker.scoring.config import EncoderConfig, NetworkConfig, ScorerConfig
from worker.scoring.network import DenseNetwork
from worker.scoring.ratings import Ratings
from worker.scoring.report import report_json, report_svg
from worker.scoring.train import Epoch, Trained, TrainOptions, split_prompts, train
from worker.scoring.weights import new_network

SIZE = 8
CONFIG = ScorerConfig(
    encoder=EncoderConfig(
        name="e", revision="r", precision="float32", vector_size=SIZE, context_length=9
    ),
    models=["even", "odd"],
    network=NetworkConfig(model_size=4, hidden_size=16),
)


def example(num_prompts: int = 100) -> tuple[Tensor, Ratings]:
    """Vectors that nearly all point one way, and differ a little by which model is better."""
    kinds = torch.arange(num_prompts) % 2
    noise = 0.01 * torch.randn(num_prompts, SIZE, generator=torch.Generator().manual_seed(0))
    vectors = 5 + noise
    vectors[:, 0] += 0.1 * kinds
    scores = torch.stack([0.8 - 0.6 * kinds, 0.2 + 0.6 * kinds], dim=1)
    prompts = tuple(f"prompt {i}" for i in range(num_prompts))
    return vectors, Ratings(prompts, ("even", "odd"), scores)


def trained(
    options: TrainOptions, num_prompts: int = 100
) -> tuple[DenseNetwork, Trained, list[Epoch]]:
    vectors, ratings = example(num_prompts)
    network, epochs = new_network(CONFIG), list[Epoch]()
    return network, train(network, vectors, ratings, options, epochs.append), epochs


def test_prompts_are_divided_by_their_hash_and_not_by_their_order() -> None:
    prompts = [f"prompt {i}" for i in range(100)]
    parts = split_prompts(prompts)
    assert list(map(len, parts)) == [80, 10, 10]
    assert sorted(int(i) for part in parts for i in part) == list(range(100))
    lowest = sorted(prompts, key=lambda p: hashlib.sha256(p.encode()).digest())[:10]
    assert sorted(prompts[i] for i in parts.test) == sorted(lowest)
    turned = split_prompts(prompts[::-1])
    assert {prompts[::-1][i] for i in turned.validation} == {prompts[i] for i in parts.validation}


def test_the_fewest_prompts_leave_some_to_every_part() -> None:
    assert list(map(len, split_prompts(["a", "b", "c", "d", "e"]))) == [3, 1, 1]


def test_it_learns_which_model_is_better_and_constants_do_not() -> None:
    _, found, _ = trained(TrainOptions(), num_prompts=400)
    assert found.held_out.ranking_accuracy == 1
    assert found.held_out.rmse < 0.1 < found.constants.rmse
    assert found.constants.ranking_accuracy < 0.8


def test_the_same_seed_gives_the_same_network_whatever_was_drawn_before() -> None:
    first, _, epochs = trained(TrainOptions(max_epochs=3, seed=4))
    torch.rand(7)
    again, _, epochs_again = trained(TrainOptions(max_epochs=3, seed=4))
    assert epochs == epochs_again
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    other, _, _ = trained(TrainOptions(max_epochs=3, seed=5))
    assert not torch.equal(first.out.weight, other.out.weight)


def test_training_draws_nothing_from_the_numbers_of_others() -> None:
    vectors, ratings = example()
    network, state = new_network(CONFIG), torch.get_rng_state()
    train(network, vectors, ratings, TrainOptions(max_epochs=2))
    assert torch.equal(state, torch.get_rng_state())


def test_it_stops_when_the_validation_error_falls_no_more_and_keeps_the_best_weights() -> None:
    vectors, ratings = example()
    network, found, epochs = trained(TrainOptions(learning_rate=0.05, patience=4))
    best = min(epochs, key=lambda epoch: epoch.validation_rmse)
    assert found.best == best
    assert found.num_epochs == len(epochs) == best.number + 4
    part = split_prompts(ratings.prompts).validation
    scores = network(vectors[part], torch.arange(2)).sigmoid()
    rmse = float((scores - ratings.scores_PM[part]).square().mean().sqrt().detach())
    assert rmse == pytest.approx(best.validation_rmse)


def test_missing_ratings_teach_nothing() -> None:
    vectors, ratings = example(400)
    scores = ratings.scores_PM.clone()
    scores[torch.arange(0, 400, 3), 0] = torch.nan
    sparse = Ratings(ratings.prompts, ratings.models, scores)
    found = train(new_network(CONFIG), vectors, sparse, TrainOptions())
    assert found.held_out.ranking_accuracy == 1


def test_a_number_that_never_moves_in_training_does_not_drown_the_others() -> None:
    network = new_network(CONFIG)
    vectors = torch.randn(50, SIZE, generator=torch.Generator().manual_seed(1))
    vectors[:, 3] = 0.25
    network.fit_features(vectors)
    scaled = (vectors[:1] - network.mean_D) / network.std_D
    assert bool(scaled.isfinite().all())
    assert float(scaled.abs().max()) < 10


def test_the_report_has_the_figures_and_null_where_there_are_none() -> None:
    _, found, _ = trained(TrainOptions(max_epochs=2), num_prompts=5)
    report = json.loads(report_json("name", CONFIG, found, 1.23))
    assert report["prompts"] == {"train": 3, "validation": 1, "test": 1}
    assert report["models"] == ["even", "odd"]
    assert report["held_out"]["rmse"] == round(found.held_out.rmse, 4)
    assert "NaN" not in report_json("name", CONFIG, found, 1.23).decode()


def test_the_picture_is_sound_and_escapes_the_name() -> None:
    _, found, _ = trained(TrainOptions(max_epochs=2))
    root = ElementTree.fromstring(report_svg("a<b", found))
    names = "{http://www.w3.org/2000/svg}"
    assert "Scorer a<b" in [text.text for text in root.iter(f"{names}text")]
    assert len(list(root.iter(f"{names}circle"))) == len(found.bins)
