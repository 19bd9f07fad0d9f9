"""What top-k, top-p and min-p leave is what transformers' processors leave."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from worker.engine.filters import SHORTLIST, shortlist, weights
from worker.engine.sampler import probabilities
from worker.engine.sequence import SamplingParams


def params(**extra):
    off = {"max_tokens": 9, "temperature": 1.0, "top_p": 1.0}
    return SamplingParams(**off | extra)


def reference(logits, wanted):
    """Transformers' processors, in the order in which `generate` applies them."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(float(wanted.temperature))])
    if wanted.top_k:
        processors.append(TopKLogitsWarper(wanted.top_k))
    if wanted.top_p < 1:
        processors.append(TopPLogitsWarper(wanted.top_p))
    if wanted.min_p:
        processors.append(MinPLogitsWarper(wanted.min_p))
    return processors(None, logits[None]).softmax(-1)[0]


FILTERS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5, "top_k": 7},
    {"top_k": 10**6},
    {"top_p": 0.8},
    {"top_p": 0.01},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.7},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.1, "temperature": 1.7},
    {"top_p": 0.999, "min_p": 0.001, "temperature": 0.5},
    # Flat, so that more tokens are left than fit on a shortlist.
    {"top_p": 0.9, "temperature": 30.0},
    {"top_k": 700, "top_p": 0.95, "min_p": 0.001, "temperature": 30.0},
    {"top_k": 700},
    {"min_p": 0.5, "temperature": 50.0},
]


@pytest.mark.parametrize("size", [64, 1000, 5000])
def test_every_filter_gives_transformers_distribution_alone_and_in_a_batch(size):
    logits = torch.randn(len(FILTERS), size, generator=torch.Generator().manual_seed(1)) * 3
    wanted = [params(**extra) for extra in FILTERS]
    together = probabilities(logits, wanted)
    for index, one in enumerate(wanted):
        expected = reference(logits[index], one)
        alone = probabilities(logits[index : index + 1], [one])[0]
        for got in (together[index], alone):
            assert torch.equal(got > 0, expected > 0), FILTERS[index]
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_top_k_keeps_the_ties_of_the_last_token_it_keeps():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]])
    wanted = params(top_k=2, top_p=0.99)
    got = probabilities(logits, [wanted])[0]
    assert torch.equal(got > 0, reference(logits[0], wanted) > 0)
    assert (got > 0).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("size", [SHORTLIST // 2, 3000])
def test_of_tied_tokens_top_p_keeps_as_many_as_transformers_and_the_smallest_ids(size):
    logits = torch.zeros(1, size)
    logits[0, 10:30] = 2.0
    best_first = [*range(10, 30), *range(10), *range(30, size)]
    for top_p in (0.01, 0.025, 0.3, 0.9, 0.99):
        wanted = params(top_p=top_p)
        num_kept = int((reference(logits[0], wanted) > 0).sum())
        expected = sorted(best_first[:num_kept])
        assert probabilities(logits, [wanted])[0].nonzero()[:, 0].tolist() == expected, top_p
        # Again by the bucket that a token falls into, which small vocabularies do not need.
        assert weights(logits, [wanted])[0].nonzero()[:, 0].tolist() == expected, top_p


def test_a_shortlist_says_when_it_is_not_all_and_else_gives_the_whole_rows_weights():
    logits = torch.randn(40, 2000, generator=torch.Generator().manual_seed(5)).bfloat16().float()
    wanted = [params(top_p=0.1 + 0.02 * i, temperature=0.1 + 0.05 * i) for i in range(40)]
    ids, found, is_all = shortlist(logits, wanted)
    every = weights(logits, wanted).double()
    assert set(is_all) == {True, False}
    for index, complete in enumerate(is_all):
        kept = every[index] > 0
        if complete:
            share = torch.zeros(2000, dtype=torch.float64)
            share[ids[index]] = found[index] / found[index].sum()
            assert torch.equal(share > 0, kept)
            torch.testing.assert_close(share, every[index] / every[index].sum(), rtol=1e-5, atol=0)
        else:
            last = logits[index][kept].min()
            assert (logits[index] >= last).sum() >= SHORTLIST, "it need not have been left"


def test_a_temperature_too_small_for_fp32_is_greedy():
    logits = torch.tensor([[300.0, 301.0, 301.0]])
    for extra in ({}, {"top_p": 0.9}, {"top_k": 2, "min_p": 0.1}):
        got = probabilities(logits, [params(temperature=1e-60, **extra)])
        assert got.tolist() == [[0.0, 0.5, 0.5]], extra


def test_the_smallest_top_p_of_all_still_keeps_a_token():
    wanted = params(top_p=5e-324)
    for logits in (torch.tensor([[1.0, 3.0, 2.0]]), torch.arange(999.0)[None]):
        got = probabilities(logits, [wanted])
        assert got.nonzero()[:, 1].tolist() == logits.argmax(-1).tolist()
        assert (weights(logits, [wanted]) > 0).sum() == 1


def test_top_p_keeps_the_token_that_crosses_it():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    kept = probabilities(logits, [params(top_p=0.6)])[0] > 0
    assert kept.tolist() == [True, True, False]


def test_top_p_stops_exactly_where_the_mass_before_reaches_it():
    logits = torch.zeros(1, 4)  # four tokens of exactly a quarter each
    wanted = params(top_p=0.5)
    assert int((reference(logits[0], wanted) > 0).sum()) == 2
    assert int((probabilities(logits, [wanted]) > 0).sum()) == 2


def test_the_smallest_top_p_still_keeps_the_best_token():
    got = probabilities(torch.tensor([[1.0, 3.0, 2.0]]), [params(top_p=1e-12)])
    assert got.tolist() == [[0.0, 1.0, 0.0]]


def test_a_tiny_temperature_is_greedy_in_the_limit():
    logits = torch.tensor([[300.0, 299.0, -300.0]])
    got = probabilities(logits, [params(temperature=1e-30, top_p=0.9, top_k=2)])
    assert got.tolist() == [[1.0, 0.0, 0.0]]
