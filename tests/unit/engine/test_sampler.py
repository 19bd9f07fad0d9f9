"""Each filter gives transformers' distribution, and each draw is a pure function."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from worker.engine.philox import philox4x32
from worker.engine.sampler import SamplingRow, draw, penalize, probabilities, sample, uniform
from worker.engine.sequence import SamplingParams


def params(**extra):
    off = {"max_tokens": 9, "temperature": 1.0, "top_p": 1.0}
    return SamplingParams(**off | extra)


def row(prompt=(), completion=(), end_ids=(), choice=0, **extra):
    return SamplingRow(params(**extra), prompt, completion, frozenset(end_ids), choice)


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


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_authors_known_answers(counter, key, words):
    assert philox4x32(counter, key) == words


def test_draws_are_in_range_spread_evenly_and_differ_in_every_argument():
    draws = [uniform(s, c, p) for s in range(10) for c in range(10) for p in range(100)]
    assert len(set(draws)) == len(draws)
    assert all(0 <= value < 1 for value in draws)
    counts = torch.histc(torch.tensor(draws), bins=20, min=0, max=1)
    chi_square = float(((counts - 500) ** 2 / 500).sum())
    assert chi_square < 43.8, "the 0.1% point for 19 degrees of freedom"


def test_a_draw_takes_any_integer_as_its_seed():
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0)
    assert uniform(2**32, 0, 0) != uniform(0, 0, 0)
    assert 0 <= uniform(-(2**70), 3, 2**33) < 1


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
]


@pytest.mark.parametrize("size", [64, 1000])
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


def test_a_draw_picks_the_token_whose_share_it_falls_in():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).expand(6, 6)
    draws = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw(probs, draws).tolist() == [1, 1, 3, 3, 4, 4]


def test_the_largest_draw_stays_inside_any_total():
    totals = torch.rand(2000, generator=torch.Generator().manual_seed(1)) * 3 + 1e-3
    probs = torch.stack([totals, torch.zeros(2000)], dim=1)
    largest = torch.full((2000,), 1 - 2**-53, dtype=torch.float64)
    assert draw(probs, largest).tolist() == [0] * 2000


def test_evenly_spaced_draws_give_every_token_its_exact_share():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(2))
    wanted = params(top_p=0.9, temperature=0.8)
    num = 20_000
    draws = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    probs = probabilities(logits, [wanted])
    shares = draw(probs.expand(num, -1), draws).bincount(minlength=50) / num
    torch.testing.assert_close(shares, reference(logits[0], wanted), rtol=0, atol=1.5 / num)


def test_real_draws_follow_transformers_distribution():
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(4))
    wanted = params(top_k=8, seed=5)
    num = 5000
    draws = torch.tensor([uniform(5, 0, p) for p in range(num)], dtype=torch.float64)
    counts = draw(probabilities(logits, [wanted]).expand(num, -1), draws).bincount(minlength=12)
    expected = reference(logits[0], wanted) * num
    kept = expected > 0
    chi_square = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert counts[~kept].sum() == 0
    assert chi_square < 24.3, "the 0.1% point for 7 degrees of freedom"


def test_a_rows_token_does_not_depend_on_the_rows_beside_it():
    logits = torch.randn(3, 80, generator=torch.Generator().manual_seed(3))
    rows = [
        row(seed=1, top_p=0.9, temperature=1.5),
        row(seed=2, top_k=5, completion=(1, 2)),
        row(temperature=0.0),
    ]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [one])[0] for i, one in enumerate(rows)]
    assert sample(logits.flip(0), rows[::-1]) == together[::-1]
    assert together[2] == int(logits[2].argmax())


def test_the_draw_is_that_of_the_seed_the_choice_and_the_position():
    logits = torch.zeros(1, 1000)
    got = sample(logits, [row(seed=3, choice=2, completion=(5, 5, 5))])
    assert got == [int(uniform(3, 2, 3) * 1000)]


def test_sampling_leaves_the_logits_alone():
    logits = torch.randn(2, 30)
    before = logits.clone()
    sample(logits, [row(presence_penalty=1.0, completion=(3,)), row(min_tokens=4, end_ids=(1,))])
    assert torch.equal(logits, before)


def test_the_repetition_penalty_counts_prompt_and_completion_once_each():
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(6))
    got = penalize(logits, [row(prompt=(1, 2, 2), completion=(3, 3), repetition_penalty=1.7)])
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[1, 2, 2, 3, 3]]), logits)
    torch.testing.assert_close(got, expected)


def test_presence_and_frequency_penalties_count_the_completion_alone():
    got = penalize(
        torch.zeros(1, 6),
        [row(prompt=(0, 1), completion=(2, 3, 3), presence_penalty=0.5, frequency_penalty=0.25)],
    )
    assert got.tolist() == [[0.0, 0.0, -0.75, -1.0, 0.0, 0.0]]


def test_min_tokens_takes_the_end_ids_away_until_it_is_reached():
    logits = torch.tensor([[0.0, 9.0, 1.0, 8.0]])
    early = row(temperature=0.0, min_tokens=2, end_ids=(1, 3), completion=(2,))
    late = row(temperature=0.0, min_tokens=2, end_ids=(1, 3), completion=(2, 2))
    assert sample(logits, [early]) == [2]
    assert sample(logits, [late]) == [1]


def test_min_tokens_that_is_reached_takes_nothing_away_beside_penalties():
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    late = row(temperature=0.0, min_tokens=1, end_ids=(1,), completion=(2,), presence_penalty=0.1)
    assert sample(logits, [late]) == [1]


def test_half_precision_logits_are_sampled_in_full_precision():
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(8)).bfloat16()
    rows = [row(seed=4), row(temperature=0.0, repetition_penalty=1.1, prompt=(1,))]
    assert sample(logits, rows) == sample(logits.float(), rows)
