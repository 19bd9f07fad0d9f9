"""The books of the slots, against books that are kept the slow way."""

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.slot_table import EVICTED_TOKENS, SlotTable

NUM_SLOTS = 3
PLENTY = 1000
TEXTS = st.lists(st.integers(0, 1), min_size=1, max_size=6)
# Ends the n-th of those that have slots, lets it grow, or begins a text.
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.integers(0, NUM_SLOTS - 1)),
        st.tuples(st.just("grow"), st.integers(0, NUM_SLOTS - 1)),
        st.tuples(st.just("begin"), TEXTS),
    ),
    max_size=40,
)


def num_common(left, right):
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


class Books:
    """The same books, kept the slow way, beside those of a table."""

    def __init__(self, capacity):
        self.table = SlotTable(NUM_SLOTS, capacity)
        self.capacity = capacity
        self.slots = [[] for _ in range(NUM_SLOTS)]
        self.slot_of = {}

    @property
    def num_used(self):
        return sum(len(self.slots[slot]) for slot in self.slot_of.values())

    def cut(self, cuts):
        for slot, num_left in ((cut.slot, cut.num_left) for cut in cuts):
            assert slot not in self.slot_of.values(), "only what nobody uses is given up"
            assert num_left < len(self.slots[slot])
            del self.slots[slot][num_left:]

    def begin(self, key, ids):
        best = max(num_common(held, ids[:-1]) for held in self.slots)
        place = self.table.place(key, ids)
        has_room = len(self.slot_of) < NUM_SLOTS and self.num_used + len(ids) <= self.capacity
        assert (place is not None) == has_room
        if place is None:
            return
        assert place.num_cached == best
        assert place.slot not in self.slot_of.values()
        self.cut(place.cuts)
        source = place.slot if place.copy_from is None else place.copy_from
        assert self.slots[source][:best] == ids[:best]
        assert self.table.reserve(key, len(ids) - best) == [], "placed with room for all"
        self.table.extend(key, ids[best:])
        self.slots[place.slot] = list(ids)
        self.slot_of[key] = place.slot

    def grow(self, key):
        cuts = self.table.reserve(key, 1)
        assert (cuts is not None) == (self.num_used + 1 <= self.capacity)
        if cuts is not None:
            self.cut(cuts)
            self.table.extend(key, [1])
            self.slots[self.slot_of[key]].append(1)

    def end(self, key):
        self.table.release([key])
        del self.slot_of[key]

    def check(self):
        self.table.check_integrity({k: len(self.slots[s]) for k, s in self.slot_of.items()})
        assert self.table.used_tokens == self.num_used
        num_held = sum(map(len, self.slots))
        assert self.table.used_tokens + self.table.reusable_tokens == num_held <= self.capacity


@given(st.sampled_from([6, 9, 13, 130, PLENTY]), MOVES)
def test_a_text_begins_with_the_longest_beginning_that_any_slot_holds(capacity, moves):
    books = Books(capacity)
    for key, (move, what) in enumerate(moves):
        if move == "begin":
            books.begin(key, what)
        elif what < len(books.slot_of):
            getattr(books, move)(list(books.slot_of)[what])
        books.check()


def begin(table, key, ids):
    place = table.place(key, ids)
    table.extend(key, ids[place.num_cached :])
    return place


def test_an_empty_slot_is_taken_before_one_that_holds_something():
    table = SlotTable(2, PLENTY)
    first = begin(table, 1, [1, 2, 3])
    table.release([1])
    assert begin(table, 2, [7, 8, 9]).slot != first.slot


def test_of_two_that_hold_something_else_the_one_given_back_first_is_taken():
    table = SlotTable(2, PLENTY)
    places = {key: begin(table, key, [key, key]) for key in (1, 2)}
    table.release([2])
    table.release([1])
    assert begin(table, 3, [7, 8]).slot == places[2].slot
    assert table.counters.evictions == 1


def test_the_counters_tell_of_every_token_that_was_looked_up():
    table = SlotTable(2, PLENTY)
    begin(table, 1, [1, 2, 3, 4])
    begin(table, 2, [1, 2, 3, 5])
    assert (table.counters.queries, table.counters.hits) == (8, 3)


def test_what_is_forgotten_is_not_reused():
    table = SlotTable(1, PLENTY)
    begin(table, 1, [1, 2, 3, 4])
    table.forget(1)
    assert begin(table, 2, [1, 2, 3, 4]).num_cached == 0


def test_the_tail_of_what_was_given_back_first_is_given_up_first():
    table = SlotTable(3, 400)
    for key in (1, 2):
        table.place(key, [key] * 150)
        table.extend(key, [key] * 150)
    table.release([2])
    table.release([1])
    place = table.place(3, [3] * 101)
    assert [(cut.slot, cut.num_left) for cut in place.cuts] == [(1, 150 - EVICTED_TOKENS)]
    assert (table.used_tokens, table.reusable_tokens) == (101, 300 - EVICTED_TOKENS)


def test_what_runs_gives_up_nothing():
    table = SlotTable(2, 10)
    table.place(1, [1] * 8)
    table.extend(1, [1] * 8)
    assert table.place(2, [2] * 3) is None
    assert table.place(2, [2] * 2) is not None
    assert table.reserve(1, 1) is None
    table.check_integrity({1: 8})


def test_what_follows_something_unsound_is_of_use_to_nobody():
    table = SlotTable(2, PLENTY)
    table.place(1, [1, 2, 3, 4, 5, 6])
    table.extend(1, [1, 2, 3, 4], num_sound=2)
    table.extend(1, [5, 6])
    table.check_integrity({1: 6})
    assert begin(table, 2, [1, 2, 3, 4, 5]).num_cached == 2
    table.release([2])
    [cut] = table.release([1])
    assert cut.num_left == 2
    table.check_integrity({})
    assert table.reusable_tokens == 2 + 5
    assert begin(table, 3, [1, 2, 3, 4, 5, 6]).num_cached == 5, "what another computed anew is"


def test_a_slot_that_held_something_unsound_is_as_good_as_new():
    table = SlotTable(1, PLENTY)
    table.place(1, [1, 2, 3])
    table.extend(1, [1, 2, 3], num_sound=0)
    table.release([1])
    assert begin(table, 2, [1, 2, 3]).num_cached == 0
    table.release([2])
    assert begin(table, 3, [1, 2, 3]).num_cached == 2
