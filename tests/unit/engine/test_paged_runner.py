"""The cache of blocks: chunks of any size, in any company, give the logits of the whole text."""

import random

import pytest
import torch

from tests.unit.engine.test_exactness import assert_same
from tests.unit.engine.test_slot_runner import Driven
from worker.engine import attention, paged_cache
from worker.engine.paged_cache import PagedCache
from worker.engine.paged_runner import PagedRunner
from worker.engine.runner import Chunk

A, B, C = [5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18]
FAMILIES = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt_oss", "phi3", "neox"),
]
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, fp32


class Paged(Driven):
    """A runner over blocks, and the same model without any cache to compare it with."""

    def __init__(self, loaded, usual, num_blocks=100, block_size=4, **options):
        self.runner = PagedRunner(loaded, num_blocks, block_size=block_size, **options)
        self.usual = usual(loaded)
        self.texts = {}


@pytest.fixture
def driven(llama, usual):
    driven = Paged(llama, usual)
    yield driven
    driven.check_integrity()


def count_up(num_tokens, first=2):
    return [first + i % 50 for i in range(num_tokens)]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_chunks_give_the_logits_of_the_whole_text(family, model_of, usual):
    driven = Paged(model_of(family), usual)
    driven.begin(1, A, in_chunks_of=2)
    driven.begin(2, B)
    driven.begin(3, C)
    driven.run({1: [20, 21, 22], 2: [30], 3: [31]})
    for _ in range(12):  # past the sliding window
        driven.run({3: [40], 1: [50]})
    driven.run({2: [31], 1: [32], 3: [33, 34]})
    driven.begin(4, [*A, 20, 21, 22, 50, 50, 99])
    driven.run({4: count_up(11), 2: [32]})
    driven.check_integrity()


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9])
def test_texts_that_end_at_any_place_in_a_block_go_on(length, driven):
    driven.begin(1, count_up(length))
    driven.run({1: [60]})
    driven.run({1: count_up(4, first=70)})
    driven.run({1: [61]})


def test_rows_of_very_different_lengths_may_run_side_by_side(driven):
    for key, length in enumerate((1, 90, 3, 60, 88, 59)):
        driven.begin(key, count_up(length, first=2 + key))
    for _ in range(3):
        driven.run({3: [7], 0: [8], 2: [9], 5: [7], 1: [10], 4: [11]})


@pytest.mark.parametrize("most_tokens", [1, 130, 10**6])
def test_decodes_that_read_side_by_side_read_little_in_vain_and_not_too_much(
    most_tokens, driven, monkeypatch
):
    reads = []

    def weigh(query, key, *rest):
        reads.append((len(key), key.shape[2]))
        return attention.weigh(query, key, *rest)

    lengths = (9, 60, 10, 60, 55, 50, 1)
    for key, length in enumerate(lengths):
        driven.begin(key, count_up(length, first=2 + key))
    monkeypatch.setattr(paged_cache, "weigh", weigh)
    monkeypatch.setattr(paged_cache, "MOST_READ_TOKENS", most_tokens)
    driven.run({key: [9] for key in range(7)})
    num_layers = 2
    batches = {1: 7 * [1], 130: [2, 2, 2, 1], 10**6: [5, 1, 1]}[most_tokens]
    assert [num for num, _ in reads] == batches * num_layers
    assert all(num == 1 or num * length <= most_tokens for num, length in reads)


def test_a_text_begins_with_the_full_blocks_of_an_ended_one(driven):
    driven.begin(1, count_up(11))
    driven.end(1)
    assert driven.begin(2, [*count_up(11), 60]) == 8
    driven.run({2: [22]})
    assert driven.runner.stats.hits == 8


def test_texts_that_run_share_their_blocks(driven):
    driven.begin(1, count_up(11))
    assert driven.begin(2, [*count_up(11), 60]) == 8
    assert driven.runner.stats.used_tokens == 4 * 4
    driven.run({1: [20], 2: [21]})
    driven.end(1)
    driven.run({2: [22]})
    assert driven.begin(3, [*count_up(11), 60, 99]) == 12
    driven.run({2: [23], 3: [23]})


def test_the_last_token_of_a_text_is_never_taken_from_the_cache(driven):
    driven.begin(1, count_up(8))
    driven.end(1)
    assert driven.begin(2, count_up(8)) == 4


def test_texts_that_were_the_same_side_by_side_go_on_over_one_copy(driven):
    for key in (1, 2):
        assert driven.runner.place(key, count_up(9)) == 0
        driven.texts[key] = []
    driven.run({1: count_up(9), 2: count_up(9)})
    assert driven.runner.stats.used_tokens == 4 * 4
    for _ in range(5):
        driven.run({1: [30], 2: [31]})
    driven.end(1)
    driven.run({2: [32]})


def test_without_reuse_every_text_begins_from_nothing(llama, usual):
    driven = Paged(llama, usual, reuses_prefixes=False)
    driven.begin(1, count_up(9))
    driven.end(1)
    assert driven.begin(2, count_up(9)) == 0
    assert driven.runner.stats.reusable_tokens == 0


def test_a_text_that_wants_all_its_logits_gets_them(driven):
    driven.begin(1, count_up(9))
    assert driven.runner.place(2, count_up(9), reuse=False) == 0
    assert driven.runner.place(3, C) == 0
    ids = count_up(9)
    rows = driven.runner.run([Chunk(3, C, 0, 2), Chunk(2, ids, 0, 9), Chunk(1, [50], 9)])
    with torch.inference_mode():
        whole = driven.usual(torch.tensor([[*ids, 50]])).logits[0]
        other = driven.usual(torch.tensor([C])).logits[0, -2:]
    expected = torch.cat([other, whole])
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=3e-4)
    driven.texts |= {1: [*ids, 50], 2: ids, 3: C}


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_that_holds_no_token_of_its_own_does_not_matter(
    family, model_of, usual, monkeypatch
):
    reserve = PagedCache._reserve
    monkeypatch.setattr(
        PagedCache, "_reserve", lambda self, like: reserve(self, like).fill_(torch.nan)
    )
    driven = Paged(model_of(family), usual)
    for key, length in enumerate((5, 1, 9, 14)):
        driven.begin(key, count_up(length, first=2 + key), in_chunks_of=4)
    for _ in range(6):
        driven.run({0: [20], 1: [21], 2: [22], 3: [23]})


def test_what_is_not_a_number_does_not_outlive_its_text(llama, usual):
    driven = Paged(llama, usual, num_blocks=16)
    bad, ids = 77, [5, 77, *count_up(62)]
    weights = llama.model.get_input_embeddings().weight
    good = weights.data[bad].clone()
    weights.data[bad] = float("nan")
    try:
        driven.runner.place(1, ids)
        assert driven.runner.run([Chunk(1, ids, 0)]).isnan().any()
        driven.runner.free([1])
    finally:
        weights.data[bad] = good
    # Every block has held what is not a number; the texts are read side by side to the longest.
    for key in (3, 4, 5, 6):
        driven.begin(key, [10 + key, 11, *range(50, 50 + 9 * (key == 5))])
    driven.run({3: [20], 4: [21], 5: [22], 6: [23]})


def test_where_there_is_no_room_nothing_changes(llama, usual):
    driven = Paged(llama, usual, num_blocks=6)
    assert driven.runner.max_sequence_tokens == 24
    driven.begin(1, count_up(9))
    before = driven.runner.stats
    assert driven.runner.place(2, count_up(13, first=60)) is None
    assert not driven.runner.reserve(1, 16)
    assert driven.runner.stats == before
    driven.check_integrity()
    assert driven.runner.reserve(1, 15)
    driven.run({1: count_up(15)})


def test_texts_of_ended_ones_are_given_up_for_others(llama, usual):
    driven = Paged(llama, usual, num_blocks=8)
    for key in range(6):
        driven.begin(key, count_up(14, first=2 + key))
        driven.run({key: [60]})
        driven.end(key)
        driven.check_integrity()
    assert driven.runner.stats.evictions > 0
    assert driven.runner.stats.reusable_tokens <= 8 * 4


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_texts_with_common_beginnings_gives_the_same_logits(seed, llama, usual):
    rng = random.Random(seed)
    driven = Paged(llama, usual, num_blocks=14)
    stems = [[rng.randrange(2, 9) for _ in range(rng.randint(1, 13))] for _ in range(3)]
    for key in range(14):
        ids = rng.choice(stems) + [rng.randrange(2, 5) for _ in range(rng.randint(1, 9))]
        while driven.runner.place(key, ids) is None:
            driven.end(rng.choice(list(driven.texts)))
        driven.runner.free([key])
        driven.begin(key, ids, in_chunks_of=rng.randint(1, 9))
        chunks = {}
        for other in rng.sample(list(driven.texts), rng.randint(1, len(driven.texts))):
            count = rng.choice([1, 1, 3])
            if driven.runner.reserve(other, count):
                chunks[other] = [rng.randrange(2, 5) for _ in range(count)]
        if chunks:
            driven.run(chunks)
        driven.check_integrity()
    assert driven.runner.stats.hits > 0


def test_a_forward_that_raises_leaves_the_cache_as_it_was(driven):
    driven.begin(1, A)
    driven.begin(2, B)
    driven.runner.place(3, C)
    for key, count in ((1, 1), (2, 1), (3, 7)):
        assert driven.runner.reserve(key, count)
    with pytest.raises(IndexError):  # no such row in the embedding
        driven.runner.run([Chunk(1, [20], 5), Chunk(2, [10**6], 2), Chunk(3, C, 0)])
    driven.check_integrity()
    driven.run({1: [20]})
    driven.runner.free([3])


def test_a_chunk_that_does_not_follow_the_cache_is_a_bug(driven):
    driven.begin(1, A)
    with pytest.raises(AssertionError, match="5 cached tokens"):
        driven.runner.run([Chunk(1, [20], 4)])


def test_freeing_again_is_no_error(driven):
    driven.begin(1, A)
    driven.end(1)
    driven.runner.free([1, 99])


def test_what_is_forgotten_leaves_no_trace(driven):
    driven.runner.place(1, count_up(9))
    driven.runner.run([Chunk(1, count_up(9), 0)])
    driven.runner.forget(1)
    stats = driven.runner.stats
    assert (stats.used_tokens, stats.reusable_tokens, stats.queries) == (0, 0, 0)


def test_the_stats_count_whole_blocks_and_their_memory(driven):
    assert driven.runner.stats.capacity_tokens == 400
    driven.begin(1, count_up(9))
    driven.begin(2, count_up(5, first=40))
    driven.end(1)
    stats = driven.runner.stats
    assert (stats.used_tokens, stats.reusable_tokens) == (8, 8)
    assert stats.size_bytes == 16 * TOKEN_BYTES
    assert driven.runner.block_bytes == 4 * TOKEN_BYTES
    assert (stats.queries, stats.hits, stats.evictions) == (14, 0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_over_few_blocks_gives_generates_tokens(
    family, model_of, drive, ask, generate, usual
):
    loaded = model_of(family)
    rng = random.Random(3)
    stem = [rng.randrange(2, loaded.vocab_size) for _ in range(18)]
    prompts = [stem[: 2 + 4 * i] + [rng.randrange(2, 250) for _ in range(1 + i)] for i in range(5)]
    requests = [ask(str(i), ids, max_tokens=8 + 5 * (i % 3)) for i, ids in enumerate(prompts * 2)]
    runner = PagedRunner(loaded, 20, block_size=4)
    driven = drive(loaded, runner=runner, max_batch_size=4, prefill_budget_tokens=16)
    for request in requests:
        driven.add(request).step(2)
    driven.finish()
    assert driven.engine.num_preempted > 0
    assert runner.stats.hits > 0
    assert runner.stats.evictions > 0
    for request in requests:
        answer = driven[request.request_id]
        assert_same(usual(loaded), request, answer.ids, generate(loaded, request))
