"""The cache of slots: chunks of any size, in any company, give the logits of the whole text."""

import copy

import pytest
import torch

from worker.engine.runner import Chunk
from worker.engine.slot_runner import SlotRunner

A, B, C = [5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18]
FAMILIES = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt_oss", "phi3", "neox"),
]


class Driven:
    """A runner, and the same model without any cache to compare it with."""

    def __init__(self, loaded, usual, **options):
        self.runner = SlotRunner(loaded, 4, **options)
        self.usual = usual(loaded)
        self.texts = {}

    def begin(self, key, ids, *, in_chunks_of=100):
        """Run a new text; how many of its tokens were cached already."""
        self.texts[key] = []
        num_cached = self.runner.place(key, ids)
        self.texts[key] = list(ids[:num_cached])
        for start in range(num_cached, len(ids), in_chunks_of):
            self.run({key: ids[start : start + in_chunks_of]})
        return num_cached

    def run(self, chunks):
        """Run these tokens after each text, and compare the logits."""
        for key, ids in chunks.items():
            assert self.runner.reserve(key, len(ids))
        rows = self.runner.run(
            [Chunk(key, ids, len(self.texts[key])) for key, ids in chunks.items()]
        )
        for row, (key, ids) in zip(rows, chunks.items(), strict=True):
            self.texts[key] += ids
            with torch.inference_mode():
                expected = self.usual(torch.tensor([self.texts[key]])).logits[0, -1]
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=3e-4)

    def end(self, *keys):
        self.runner.free(keys)
        for key in keys:
            del self.texts[key]

    def check_integrity(self):
        self.runner.check_integrity({key: len(ids) for key, ids in self.texts.items()})


@pytest.fixture
def driven(llama, usual):
    driven = Driven(llama, usual)
    yield driven
    driven.check_integrity()


@pytest.mark.parametrize("compiled_or_not", ["compiled", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_chunks_give_the_logits_of_the_whole_text(family, compiled_or_not, model_of, usual):
    loaded = copy.copy(model_of(family))
    if compiled_or_not == "torch":
        loaded.kernels = None
    driven = Driven(loaded, usual)
    driven.begin(1, A, in_chunks_of=2)
    driven.begin(2, B)
    driven.begin(3, C)
    driven.run({1: [20, 21, 22], 2: [30], 3: [31]})
    for _ in range(12):  # past the sliding window
        driven.run({3: [40], 1: [50]})
    driven.run({2: [31], 1: [32], 3: [33]})
    driven.check_integrity()


def test_rows_of_very_different_lengths_may_run_side_by_side(driven):
    for key, length in enumerate((1, 90, 3, 60)):
        driven.begin(key, [2 + i % 50 for i in range(length)])
    for _ in range(3):
        driven.run({3: [7], 0: [8], 2: [9], 1: [10]})


def test_a_text_that_begins_as_an_ended_one_begins_cached(driven):
    driven.begin(1, A)
    driven.run({1: [20]})
    driven.end(1)
    assert driven.begin(2, [*A, 20, 21]) == 6
    driven.run({2: [22]})
    assert driven.runner.stats.hits == 6


def test_a_text_that_begins_as_a_running_one_begins_with_a_copy(driven):
    driven.begin(1, C)
    assert driven.begin(2, [*C[:4], 99, 98]) == 4
    driven.run({1: [20], 2: [21]})
    driven.run({1: [22], 2: [23]})


def test_the_last_token_of_a_text_is_never_taken_from_the_cache(driven):
    driven.begin(1, A)
    driven.end(1)
    assert driven.begin(2, A) == len(A) - 1


def test_without_reuse_every_text_begins_from_nothing(llama, usual):
    driven = Driven(llama, usual, reuses_prefixes=False)
    driven.begin(1, A)
    driven.end(1)
    assert driven.begin(2, A) == 0


@pytest.mark.parametrize("compiled_or_not", ["compiled", "torch"])
def test_what_is_not_a_number_does_not_leave_its_slot(compiled_or_not, llama, usual):
    loaded, bad = copy.copy(llama), 77
    if compiled_or_not == "torch":
        loaded.kernels = None
    driven = Driven(loaded, usual)
    weights = llama.model.get_input_embeddings().weight
    good = weights.data[bad].clone()
    weights.data[bad] = float("nan")
    try:
        driven.runner.place(1, [5, bad, *range(20, 40)])
        rows = driven.runner.run([Chunk(1, [5, bad, *range(20, 40)], 0)])
        assert rows.isnan().any()
        driven.runner.free([1])
    finally:
        weights.data[bad] = good
    # The short text takes the bad slot, beside a longer one: both are read to the longer's end.
    for key in (2, 3, 4, 5):
        driven.begin(key, [10 + key, 11, *range(50, 50 + 9 * (key == 4))])
    driven.run({2: [20], 3: [21], 4: [22], 5: [23]})


def test_a_forward_that_raises_leaves_the_cache_as_it_was(driven):
    driven.begin(1, A)
    driven.begin(2, B)
    driven.runner.place(3, C)
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


def test_check_integrity_notices_lengths_that_differ(driven):
    driven.begin(1, A)
    with pytest.raises(AssertionError):
        driven.runner.check_integrity({1: 4})
    with pytest.raises(AssertionError):
        driven.runner.check_integrity({1: 5, 2: 1})
