"""What is drawn follows transformers' distribution, and each draw is a pure function."""

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from tests.unit.engine.test_filters import FILTERS, params, reference
from worker.engine.philox import philox4x32
from worker.engine.sampler import (
    SamplingRow,
    draw,
    finite_rows,
    penalize,
    probabilities,
    sample,
    uniform,
)


def row(prompt=(), completion=(), end_ids=(), choice=0, **extra):
    return SamplingRow(params(**extra), prompt, completion, frozenset(end_ids), choice)


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


PROMPT, COMPLETION = (1, 4, 4), (2, 4, 7, 7)
BIAS = ((0, -100.0), (3, 1.5), (7, -0.5))
CHAINS = [
    {"temperature": 0.7},
    {"top_k": 9},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"repetition_penalty": 1.6},
    {"logit_bias": BIAS},
    {"presence_penalty": 0.7, "frequency_penalty": 0.3},
    {"temperature": 1.4, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    {"repetition_penalty": 0.7, "logit_bias": BIAS, "temperature": 0.8, "top_p": 0.95},
    {"repetition_penalty": 1.2, "presence_penalty": -0.4, "logit_bias": BIAS, "min_p": 0.02},
    {"frequency_penalty": 1.1, "temperature": 1.8, "top_k": 6, "min_p": 0.1, "min_tokens": 9},
]


def chain_reference(logits, wanted, end_ids):
    """Transformers' processors, and by hand what it has none for."""
    ids = torch.tensor([[*PROMPT, *COMPLETION]])
    scores = RepetitionPenaltyLogitsProcessor(float(wanted.repetition_penalty))(ids, logits[None])
    for token_id in set(COMPLETION):
        count = COMPLETION.count(token_id)
        scores[0, token_id] -= wanted.presence_penalty + wanted.frequency_penalty * count
    if wanted.logit_bias:
        biases = [[[token_id], bias] for token_id, bias in wanted.logit_bias]
        scores = SequenceBiasLogitsProcessor(biases)(ids, scores)
    if wanted.min_tokens > len(COMPLETION):
        scores[0, list(end_ids)] = -torch.inf
    return reference(scores[0], wanted)


def chance_of(counts, probs):
    """How likely it is to be at least as far off; what is seldom expected is put together."""
    expected = probs.double() * counts.sum()
    is_rare = expected < 5
    seen = torch.cat([counts[~is_rare].double(), counts[is_rare].sum()[None].double()])
    wanted = torch.cat([expected[~is_rare], expected[is_rare].sum()[None]])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    return tail(float(((seen - wanted) ** 2 / wanted).sum()), len(seen) - 1)


def tail(chi_square, degrees):
    """The chance that a chi-square variable is above a value."""
    half = torch.tensor([degrees / 2, chi_square / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("extra", CHAINS)
def test_what_is_sampled_follows_transformers_processors(extra, size):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(7)) * 2
    end_ids, num = (5, 9), 4000
    expected = chain_reference(logits, params(**extra), end_ids)
    rows = [row(PROMPT, COMPLETION, end_ids, seed=seed, **extra) for seed in range(num)]
    got = probabilities(penalize(logits[None], rows[:1]), [rows[0].params])[0]
    assert torch.equal(got > 0, expected > 0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    counts = torch.tensor(sample(logits.expand(num, -1), rows)).bincount(minlength=size)
    assert not counts[expected == 0].any()
    assert chance_of(counts, expected) > 0.001


def test_the_chance_tells_a_wrong_distribution_from_a_right_one():
    counts = torch.tensor([400, 350, 250])
    assert chance_of(counts, torch.tensor([0.4, 0.35, 0.25])) == pytest.approx(1)
    assert chance_of(counts, torch.tensor([0.33, 0.35, 0.32])) < 0.001
    for degrees, point in [(1, 10.828), (7, 24.322), (19, 43.820)]:  # from a table
        assert tail(point, degrees) == pytest.approx(0.001, rel=1e-3)


def mixed_rows():
    kinds = [extra | chain for extra in FILTERS for chain in ({}, *CHAINS[4:7])]
    kinds += [{"temperature": 0.0, **chain} for chain in CHAINS[4:7]]
    return [
        row(PROMPT, COMPLETION, (5, 9), seed=seed, choice=seed % 3, min_tokens=seed % 7, **extra)
        for seed, extra in enumerate(kinds)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixed_batch_gives_each_row_what_it_gets_alone_to_the_bit(dtype):
    rows = mixed_rows()
    # Rounded to bfloat16 many tokens are tied, where a sort may put them in any order.
    logits = torch.randn(len(rows), 3000, generator=torch.Generator().manual_seed(3)).to(dtype)
    alone = [sample(logits[i : i + 1], [one])[0] for i, one in enumerate(rows)]
    assert sample(logits, rows) == alone
    assert sample(logits.flip(0), rows[::-1]) == alone[::-1]
    drawn = [index for index, one in enumerate(rows) if not one.params.is_greedy]
    scores = penalize(logits, rows)[drawn]
    together = probabilities(scores, [rows[index].params for index in drawn])
    for place, index in enumerate(drawn):
        one = probabilities(scores[place : place + 1], [rows[index].params])[0]
        assert torch.equal(together[place], one), rows[index].params


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


def test_a_logit_bias_is_added_after_the_penalties_and_before_the_temperature():
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.0]])
    extra = {"repetition_penalty": 2.0, "presence_penalty": 0.5, "logit_bias": ((0, 3.0), (3, -1))}
    got = penalize(logits, [row(completion=(0,), temperature=0.5, **extra)])
    assert got.tolist() == [[2.0 / 2 - 0.5 + 3, 1.0, -1.0, -1.0]]


def test_a_bias_of_100_decides_and_one_of_minus_100_forbids():
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(9))
    forced = row(logit_bias=((11, 100.0),), seed=1)
    assert sample(logits, [forced]) == [11]
    best = int(logits.argmax())
    shunned = [row(logit_bias=((best, -100.0),), seed=seed) for seed in range(200)]
    assert best not in sample(logits.expand(200, -1), shunned)


def test_an_end_id_that_the_model_lacks_is_no_fault_of_the_batch():
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    assert sample(logits, [row(temperature=0.0, min_tokens=2, end_ids=(1, 77))]) == [2]


def test_a_row_serves_for_all_the_tokens_of_its_sequence():
    written = [3]
    one = row(prompt=(1,), completion=written, repetition_penalty=2.0, frequency_penalty=0.5)
    logits = torch.full((1, 6), 4.0)
    assert penalize(logits, [one]).tolist() == [[4.0, 2.0, 4.0, 1.5, 4.0, 4.0]]
    written += [5, 5]
    assert penalize(logits, [one]).tolist() == [[4.0, 2.0, 4.0, 1.5, 4.0, 1.0]]


def test_a_row_is_finite_where_all_its_logits_are_however_large():
    largest = torch.finfo(torch.float32).max
    logits = torch.zeros(5, 6)
    logits[0], logits[4] = largest, -largest
    logits[1:4, 4] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert finite_rows(logits) == [True, False, False, False, True]
    assert finite_rows(logits[:1]) == [True]
    assert finite_rows(torch.tensor([[torch.inf, -torch.inf, 0.0]])) == [False]
