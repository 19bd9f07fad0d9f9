"""The books of the slots, against books that are kept the slow way."""

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.slot_table import SlotTable

NUM_SLOTS = 3
TEXTS = st.lists(st.integers(0, 1), min_size=1, max_size=6)
# Ends the n-th of those that have slots, or begins a text; each text then grows by two tokens.
MOVES = st.lists(st.one_of(st.integers(0, NUM_SLOTS - 1), TEXTS), max_size=30)


def num_common(left, right):
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@given(MOVES)
def test_a_text_begins_with_the_longest_beginning_that_any_slot_holds(moves):
    table = SlotTable(NUM_SLOTS)
    slots = [[] for _ in range(NUM_SLOTS)]
    held = {}
    for key, move in enumerate(moves):
        if isinstance(move, int):
            if move < len(held):
                ended = list(held)[move]
                table.release([ended])
                del held[ended]
        elif len(held) < NUM_SLOTS:
            best = max(num_common(ids, move[:-1]) for ids in slots)
            place = table.place(key, move)
            assert place.num_cached == best
            assert place.slot not in held.values()
            if place.copy_from is None:
                assert slots[place.slot][:best] == move[:best]
            else:
                assert slots[place.copy_from][:best] == move[:best]
            table.extend(key, [*move[best:], 1, 0])
            slots[place.slot] = [*move, 1, 0]
            held[key] = place.slot
        table.check_integrity({k: len(slots[slot]) for k, slot in held.items()})


def begin(table, key, ids):
    place = table.place(key, ids)
    table.extend(key, ids[place.num_cached :])
    return place


def test_an_empty_slot_is_taken_before_one_that_holds_something():
    table = SlotTable(2)
    first = begin(table, 1, [1, 2, 3])
    table.release([1])
    assert begin(table, 2, [7, 8, 9]).slot != first.slot


def test_of_two_that_hold_something_else_the_one_given_back_first_is_taken():
    table = SlotTable(2)
    places = {key: begin(table, key, [key, key]) for key in (1, 2)}
    table.release([2])
    table.release([1])
    assert begin(table, 3, [7, 8]).slot == places[2].slot
    assert table.counters.evictions == 1


def test_the_counters_tell_of_every_token_that_was_looked_up():
    table = SlotTable(2)
    begin(table, 1, [1, 2, 3, 4])
    begin(table, 2, [1, 2, 3, 5])
    assert (table.counters.queries, table.counters.hits) == (8, 3)


def test_what_is_forgotten_is_not_reused():
    table = SlotTable(1)
    begin(table, 1, [1, 2, 3, 4])
    table.forget(1)
    assert begin(table, 2, [1, 2, 3, 4]).num_cached == 0
