"""The books of the blocks: cases that are counted by hand."""

import pytest

from worker.engine.block_table import BlockTable

SIZE = 4


def begin(table, key, ids):
    """Place a text and note all of it as cached; how much of it was."""
    num_cached = table.place(key, ids)
    table.extend(key, ids[num_cached:])
    return num_cached


def counts(table):
    return table.num_free, table.num_reusable, table.num_used


@pytest.fixture
def table():
    return BlockTable(6, SIZE)


def text(num_tokens, first=1):
    return list(range(first, first + num_tokens))


def test_a_text_gets_the_blocks_that_it_needs(table):
    for key, (length, num_used) in enumerate([(1, 1), (4, 2), (5, 4)]):
        table.place(key, text(length, first=10 * key))
        assert counts(table) == (6 - num_used, 0, num_used)
        assert len(table.blocks_of(key)) == -(-length // SIZE)


def test_the_first_blocks_are_taken_first(table):
    begin(table, 1, text(9))
    begin(table, 2, text(5, first=50))
    assert (table.blocks_of(1), table.blocks_of(2)) == ([0, 1, 2], [3, 4])


def test_a_text_that_fits_exactly_is_placed_and_a_longer_one_is_not(table):
    assert table.place(1, text(25)) is None
    assert table.place(2, text(24)) == 0
    assert counts(table) == (0, 0, 6)


@pytest.mark.parametrize(("length", "num_cached"), [(4, 0), (5, 4), (8, 4), (9, 8), (12, 8)])
def test_all_but_the_last_token_may_be_cached_in_full_blocks(table, length, num_cached):
    begin(table, 1, text(8))
    table.release([1])
    assert begin(table, 2, text(length)) == num_cached
    table.check_integrity({2: length})


def test_a_block_is_found_only_after_the_same_beginning(table):
    begin(table, 1, [1, 1, 1, 1, 5, 6, 7, 8])
    for key, ids in ((2, [2, 2, 2, 2, 5, 6, 7, 8, 9]), (3, [5, 6, 7, 8, 9])):
        assert begin(table, key, ids) == 0
        table.release([key])


def test_blocks_of_a_running_text_are_shared_and_outlive_it(table):
    begin(table, 1, text(9))
    assert begin(table, 2, [*text(8), 99]) == 8
    assert counts(table) == (2, 0, 4)
    assert table.blocks_of(1)[:2] == table.blocks_of(2)[:2]
    table.release([1])
    assert counts(table) == (3, 0, 3)
    table.release([2])
    assert counts(table) == (4, 2, 0)


def test_only_full_blocks_are_kept(table):
    begin(table, 1, text(7))
    table.release([1])
    assert counts(table) == (5, 1, 0)
    assert begin(table, 2, text(7)) == 4


def test_blocks_that_fill_up_one_token_at_a_time_are_found(table):
    begin(table, 1, text(3))
    for token in (4, 5, 6, 7, 8):
        assert table.reserve(1, 1)
        table.extend(1, [token])
    assert begin(table, 2, text(9)) == 8


def test_what_was_placed_without_reuse_may_be_reused(table):
    begin(table, 1, text(9))
    assert table.place(2, text(9), reuse=False) == 0
    assert counts(table) == (0, 0, 6)
    table.extend(2, text(9))
    # One of two equal blocks is enough: the second text has taken those of the first.
    assert table.blocks_of(1)[:2] == table.blocks_of(2)[:2]
    assert counts(table) == (2, 0, 4)


def test_room_is_given_when_the_last_block_is_full(table):
    begin(table, 1, text(3))
    assert table.reserve(1, 1)
    assert table.num_used == 1
    assert table.reserve(1, 2)
    assert table.num_used == 2
    assert table.reserve(1, 5)
    assert table.num_used == 2
    assert not table.reserve(1, 22)
    assert table.num_used == 2
    assert table.reserve(1, 21)
    assert table.num_used == 6


def test_more_than_there_is_room_for_is_a_bug(table):
    begin(table, 1, text(3))
    table.extend(1, [4])
    with pytest.raises(AssertionError, match="no room"):
        table.extend(1, [5])


def test_empty_blocks_are_taken_before_those_that_hold_something(table):
    begin(table, 1, text(8))
    table.release([1])
    begin(table, 2, text(16, first=50))
    assert table.counters.evictions == 0
    assert counts(table) == (0, 2, 4)


def test_the_text_that_was_used_least_recently_is_given_up_from_its_end(table):
    for key in (1, 2, 3):
        begin(table, key, text(8, first=10 * key))
    table.release([2])
    table.release([1, 3])
    begin(table, 4, [99])
    table.release([4])
    assert table.counters.evictions == 1
    # The end of the second text is gone, its beginning is not; to look it up makes it recent.
    assert begin(table, 5, text(9, first=20)) == 4
    table.release([5])
    assert table.counters.evictions == 2  # the end of the first one


def test_what_a_text_begins_with_is_not_given_up_to_make_room_for_its_rest(table):
    begin(table, 1, text(12))
    table.release([1])
    assert begin(table, 2, text(24)) == 12
    assert counts(table) == (0, 0, 6)
    assert table.counters.evictions == 0


def test_room_for_the_rest_is_not_counted_in_what_the_text_begins_with(table):
    begin(table, 1, text(12))
    begin(table, 2, text(8, first=50))
    table.release([1])
    # Three are reusable and one is free, but the three are the beginning of this text.
    assert table.place(3, text(20)) is None
    assert counts(table) == (1, 3, 2)
    assert table.place(4, text(16)) == 12


def test_a_text_that_finds_no_room_changes_nothing(table):
    begin(table, 1, text(8))
    begin(table, 2, text(8, first=50))
    table.release([1])
    table.release([2])
    before = counts(table), table.counters.queries, table.counters.hits
    assert table.place(3, text(25)) is None
    assert (counts(table), table.counters.queries, table.counters.hits) == before
    begin(table, 4, text(9, first=80))
    # Those of the first text are still the oldest.
    begin(table, 5, [99])
    table.release([4, 5])
    assert begin(table, 6, text(9, first=50)) == 8


def test_the_counters_tell_of_every_token_that_was_looked_up(table):
    begin(table, 1, text(9))
    begin(table, 2, text(10))
    assert (table.counters.queries, table.counters.hits) == (19, 8)


def test_what_is_forgotten_is_not_found(table):
    begin(table, 1, text(9))
    table.forget(1)
    assert counts(table) == (6, 0, 0)
    assert begin(table, 2, text(9)) == 0


def test_what_others_use_or_continue_is_not_forgotten(table):
    begin(table, 1, text(9))
    begin(table, 2, [*text(4), 50, 51, 52, 53])
    table.release([2])
    table.forget(1)
    assert begin(table, 3, [*text(4), 50, 51, 52, 53, 54]) == 8
    assert begin(table, 4, [*text(4), 99]) == 4
    table.forget(4)
    table.check_integrity({3: 9})
    assert begin(table, 5, text(9)) == 4


def test_without_reuse_nothing_is_kept():
    table = BlockTable(6, SIZE, reuses_prefixes=False)
    begin(table, 1, text(9))
    assert begin(table, 2, text(9)) == 0
    table.check_integrity({1: 9, 2: 9})
    table.release([1, 2])
    assert counts(table) == (6, 0, 0)


def test_releasing_again_is_no_error(table):
    begin(table, 1, text(5))
    table.release([1])
    table.release([1, 9])
    table.check_integrity({})


def test_a_sequence_that_is_placed_twice_is_a_bug(table):
    table.place(1, text(5))
    with pytest.raises(AssertionError, match="is placed"):
        table.place(1, text(5))


def damage_uses(table):
    table._blocks[table._held[1].blocks[0]].num_uses += 1


def damage_free(table):
    table._free.append(table._free[0])


def damage_lost(table):
    table._free.pop()


def damage_reusable(table):
    index = next(iter(table._reusable))
    del table._reusable[index]
    table._free.append(index)


def damage_unfiled(table):
    index = table._free.pop()
    table._reusable[index] = None


def damage_content(table):
    block = table._blocks[table._held[1].blocks[0]]
    block.token_ids = tuple(reversed(block.token_ids))


def damage_order(table):
    table._reusable.move_to_end(next(iter(table._reusable)))


def damage_digest(table):
    del table._filed[table._held[1].digest]


def damage_swap(table):
    blocks = table._held[1].blocks
    blocks[0], blocks[1] = blocks[1], blocks[0]


def damage_tail(table):
    table._held[1].tail.append(7)


def damage_room(table):
    table._blocks[table._held[1].blocks[-1]].num_uses = 0
    table._free.append(table._held[1].blocks.pop())


def damage_twice(table):
    blocks = table._held[1].blocks
    blocks.append(blocks[0])
    table._blocks[blocks[0]].num_uses += 1


def damage_crossed(table):
    one, other = table._held[1], table._held[3]
    one.blocks[1], other.blocks[1] = other.blocks[1], one.blocks[1]
    one.digest, other.digest = other.digest, one.digest


def damage_chain(table):
    table._held[1].digest = table._held[3].digest


def damage_found(table):
    table._filed.popitem()  # of a block that no text has


def damage_last(table):
    index, _ = table._reusable.popitem(last=False)
    table._blocks[index].num_uses = 1
    table._held[1].blocks.append(index)


DAMAGES = [damage for name, damage in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_integrity_notices(damage):
    table = BlockTable(12, SIZE)
    begin(table, 1, text(9))
    begin(table, 3, text(9, first=70))
    begin(table, 2, text(8, first=50))
    table.release([2])
    table.check_integrity({1: 9, 3: 9})
    damage(table)
    with pytest.raises((AssertionError, KeyError)):
        table.check_integrity({1: 9, 3: 9})


def test_check_integrity_notices_a_block_twice_without_reuse_too():
    table = BlockTable(6, SIZE, reuses_prefixes=False)
    begin(table, 1, text(9))
    damage_twice(table)
    with pytest.raises(AssertionError, match="a block twice"):
        table.check_integrity({1: 9})


def test_check_integrity_notices_lengths_that_differ(table):
    begin(table, 1, text(5))
    for wrong in ({}, {1: 4}, {1: 5, 2: 1}):
        with pytest.raises(AssertionError):
            table.check_integrity(wrong)


def test_a_block_with_something_unsound_in_it_or_before_it_is_never_filed(table):
    ids = text(16)
    table.place(1, ids)
    table.extend(1, ids[:10], num_sound=6)
    table.extend(1, ids[10:])
    table.check_integrity({1: 16})
    assert begin(table, 2, text(9)) == SIZE
    table.release([1])
    table.check_integrity({2: 9})
    assert counts(table) == (6 - 3, 0, 3)
    table.release([2])
    assert begin(table, 3, text(9)) == 2 * SIZE, "what another computed anew is"
