"""The padded cache: rows may join, leave and run in any company, and nothing else changes."""

import pytest
import torch

from worker.engine.padded_cache import PaddedCache, merge
from worker.engine.padded_runner import PaddedRunner
from worker.engine.runner import Chunk

A, B, C = [5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18]


@pytest.fixture
def runner(llama):
    return PaddedRunner(llama, 4)


def whole(loaded, ids):
    """Logits after a text without any cache."""
    with torch.inference_mode():
        return loaded.model(torch.tensor([ids])).logits[0, -1]


def assert_logits(loaded, rows, texts):
    for row, ids in zip(rows, texts, strict=True):
        torch.testing.assert_close(row, whole(loaded, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_cached_chunks_give_the_logits_of_the_whole_text(family, model_of):
    loaded = model_of(family)
    runner = PaddedRunner(loaded, 4)
    rows = runner.run([Chunk(1, A[:2], 0), Chunk(2, B, 0)])
    assert_logits(loaded, rows, [A[:2], B])
    rows = runner.run([Chunk(1, A[2:], 2), Chunk(2, [30], 2), Chunk(3, C, 0)])
    assert_logits(loaded, rows, [A, [*B, 30], C])
    for step in range(12):  # past the sliding window
        rows = runner.run([Chunk(3, [40], 7 + step), Chunk(1, [50], 5 + step)])
        assert_logits(loaded, rows, [C + [40] * (step + 1), A + [50] * (step + 1)])
    rows = runner.run([Chunk(2, [31], 3)])
    assert_logits(loaded, rows, [[*B, 30, 31]])
    runner.check_integrity({1: 17, 2: 4, 3: 19})


def test_those_that_do_not_run_are_left_alone(llama, runner):
    runner.run([Chunk(1, A, 0), Chunk(2, B, 0), Chunk(3, C, 0)])
    runner.run([Chunk(1, [20], 5), Chunk(2, [20], 2), Chunk(3, [20], 7)])
    runner.run([Chunk(2, [21], 3)])
    runner.check_integrity({1: 6, 2: 4, 3: 8})
    rows = runner.run([Chunk(3, [21], 8), Chunk(2, [22], 4), Chunk(1, [21], 6)])
    assert_logits(llama, rows, [[*C, 20, 21], [*B, 20, 21, 22], [*A, 20, 21]])


def test_rows_come_in_the_order_of_the_chunks(llama, runner):
    runner.run([Chunk(1, A, 0), Chunk(2, B, 0)])
    rows = runner.run([Chunk(2, [20], 2), Chunk(3, C, 0), Chunk(1, [20], 5)])
    assert_logits(llama, rows, [[*B, 20], C, [*A, 20]])


def test_a_row_that_leaves_takes_its_padding_along(llama, runner):
    runner.run([Chunk(1, A, 0), Chunk(2, B, 0), Chunk(3, C, 0)])
    runner.run([Chunk(1, [20], 5), Chunk(2, [20], 2), Chunk(3, [20], 7)])
    runner.free([3])
    runner.check_integrity({1: 6, 2: 3})
    (group,) = runner._groups
    assert group.cache.num_columns == 6
    assert_logits(llama, runner.run([Chunk(2, [21], 3)]), [[*B, 20, 21]])


def test_all_that_is_freed_is_gone_and_freeing_again_is_no_error(runner):
    runner.run([Chunk(1, A, 0), Chunk(2, B, 0)])
    runner.free([1, 2, 99])
    runner.free([1])
    runner.check_integrity({})


def test_a_batch_that_stays_the_same_is_not_copied(runner):
    runner.run([Chunk(1, A, 0), Chunk(2, B, 0)])
    runner.run([Chunk(1, [20], 5), Chunk(2, [20], 2)])
    (before,) = runner._groups
    assert before.only({1, 2}) is before
    assert merge([before.cache]) is before.cache


def test_a_forward_that_raises_leaves_the_cache_as_it_was(llama, runner):
    runner.run([Chunk(1, A, 0), Chunk(2, B, 0)])
    before = runner._groups
    with pytest.raises(IndexError):  # no such row in the embedding
        runner.run([Chunk(1, [20], 5), Chunk(2, [10**6], 2), Chunk(3, C, 0)])
    assert runner._groups is before
    assert_logits(llama, runner.run([Chunk(1, [20], 5)]), [[*A, 20]])


def test_a_chunk_that_does_not_follow_the_cache_is_a_bug(runner):
    runner.run([Chunk(1, A, 0)])
    with pytest.raises(AssertionError, match="5 cached tokens"):
        runner.run([Chunk(1, [20], 4)])


def test_check_integrity_notices_lengths_that_differ(runner):
    runner.run([Chunk(1, A, 0)])
    with pytest.raises(AssertionError):
        runner.check_integrity({1: 4})
    with pytest.raises(AssertionError):
        runner.check_integrity({1: 5, 2: 1})


def cache_of(*lengths):
    width = max(lengths)
    tensor = torch.zeros(len(lengths), 2, width, 3)
    for row, length in enumerate(lengths):
        tensor[row, :, width - length :] = row + 1.0
    return PaddedCache(lengths, (tensor,), (tensor * 10,))


def test_merging_pads_on_the_left_and_taking_trims_it():
    merged = merge([cache_of(2), cache_of(3, 1)])
    merged.check_integrity()
    assert merged.lengths == (2, 3, 1)
    assert merged.keys[0][:, 0, :, 0].tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 2]]
    taken = merged.take([2, 0])
    taken.check_integrity()
    assert taken.lengths == (1, 2)
    assert taken.values[0][:, 0, :, 0].tolist() == [[0, 20], [10, 10]]


def test_check_integrity_notices_a_tensor_of_another_shape():
    cache = cache_of(2, 3)
    with pytest.raises(AssertionError):
        PaddedCache((2, 4), cache.keys, cache.values).check_integrity()
    with pytest.raises(AssertionError):
        PaddedCache((3,), cache.keys, cache.values).check_integrity()
