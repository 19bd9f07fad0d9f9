"""The books of the blocks against books that are kept the slow way, over any sequence of calls.

The slow books know no blocks: they say of each text which of its beginnings, in whole blocks,
somebody has or had, when it was last given back, and from that who gives way. A memory of what was
written where tells whether a block holds what it is taken for.
"""

import random

import pytest

from worker.engine.block_table import BlockTable

NUM_BLOCKS, SIZE = 7, 2


def beginnings(text):
    """Its first block, its first two, and so on, the full ones."""
    return [tuple(text[:end]) for end in range(SIZE, len(text) + 1, SIZE)]


def num_blocks_for(num_tokens):
    return (num_tokens + SIZE - 1) // SIZE


class Both:
    """A block table and the slow books; each call goes to both, and they have to agree."""

    def __init__(self):
        self.table = BlockTable(NUM_BLOCKS, SIZE)
        self.texts = {}
        self.wanted = {}
        self.rooms = {}
        self.left = {}  # when each beginning that no text has was given back
        self.memory = {}
        self.now = 0
        self.num_evicted = self.num_looked_up = self.num_hits = 0

    @property
    def had(self):
        return {prefix for text in self.texts.values() for prefix in beginnings(text)}

    @property
    def num_used(self):
        more = (self.rooms[key] - len(beginnings(text)) for key, text in self.texts.items())
        return len(self.had) + sum(more)

    def take(self, num_new):
        """Give up what was given back first, of one text its end first, until so many are free."""
        while NUM_BLOCKS - self.num_used - len(self.left) < num_new:
            del self.left[min(self.left, key=lambda prefix: (self.left[prefix], -len(prefix)))]
            self.num_evicted += 1

    def give_back(self, key):
        text = self.texts.pop(key)
        del self.rooms[key], self.wanted[key]
        self.now += 1
        self.left |= {prefix: self.now for prefix in beginnings(text) if prefix not in self.had}

    def place(self, ids, reuse):
        self.now += 1
        key, found = self.now, []
        for prefix in beginnings(ids[:-1]) if reuse else []:
            if prefix not in self.had and prefix not in self.left:
                break
            found.append(prefix)
        num_new = num_blocks_for(len(ids)) - len(found)
        num_left = len(set(self.left) - set(found))
        num_free = NUM_BLOCKS - self.num_used - len(self.left)
        num_cached = self.table.place(key, ids, reuse=reuse)
        if num_new > num_free + num_left:
            assert num_cached is None
            return
        assert num_cached == len(found) * SIZE
        for prefix in found:
            self.left.pop(prefix, None)
        self.texts[key], self.wanted[key] = ids[:num_cached], ids[num_cached:]
        self.rooms[key] = len(found)
        self.take(num_new)
        self.rooms[key] += num_new
        self.num_looked_up += len(ids)
        self.num_hits += num_cached

    def reserve(self, key, count):
        num_new = max(0, num_blocks_for(len(self.texts[key]) + count) - self.rooms[key])
        has_room = num_new <= NUM_BLOCKS - self.num_used
        assert self.table.reserve(key, count) == has_room
        if has_room:
            self.take(num_new)
            self.rooms[key] += num_new

    def extend(self, key, more):
        text = self.texts[key]
        more = (self.wanted[key] + more)[: self.rooms[key] * SIZE - len(text)][: len(more)]
        del self.wanted[key][: len(more)]
        blocks = self.table.blocks_of(key)
        for position, token in enumerate(more, start=len(text)):
            text.append(token)
            self.memory[blocks[position // SIZE], position % SIZE] = tuple(text)
        self.table.extend(key, more)
        for prefix in beginnings(text):
            self.left.pop(prefix, None)

    def release(self, keys):
        self.table.release(keys)
        for key in keys:
            self.give_back(key)

    def forget(self, key):
        own = beginnings(self.texts[key])
        self.table.forget(key)
        self.give_back(key)
        for prefix in reversed(own):
            if not any(other[:-SIZE] == prefix for other in self.had | set(self.left)):
                self.left.pop(prefix, None)

    def check(self):
        self.table.check_integrity({key: len(text) for key, text in self.texts.items() if text})
        assert self.table.num_free == NUM_BLOCKS - self.num_used - len(self.left)
        assert self.table.num_reusable == len(self.left)
        assert self.table.num_used == self.num_used
        counters = self.table.counters
        assert counters.queries == self.num_looked_up
        assert (counters.hits, counters.evictions) == (self.num_hits, self.num_evicted)
        for key, text in self.texts.items():
            blocks = self.table.blocks_of(key)
            assert (len(blocks), self.table.length_of(key)) == (self.rooms[key], len(text))
            for position in range(len(text)):
                cell = blocks[position // SIZE], position % SIZE
                assert self.memory[cell] == tuple(text[: position + 1])


def tokens(rng, most):
    return [rng.randrange(2) for _ in range(rng.randint(1, most))]


def move(rng, both):
    """Make one call, any that can be made."""
    keys = sorted(both.texts)
    kind = rng.choice(["place", "reserve", "extend", "extend", "release", "forget"])
    if kind == "place" or not keys:
        both.place(tokens(rng, 9), reuse=rng.random() < 0.9)
    elif kind == "reserve":
        both.reserve(rng.choice(keys), rng.randint(1, 5))
    elif kind == "extend":
        both.extend(rng.choice(keys), tokens(rng, 5))
    elif kind == "release":
        both.release(rng.sample(keys, rng.randint(0, len(keys))))
    else:
        both.forget(rng.choice(keys))


@pytest.mark.parametrize("seed", range(10))
def test_any_calls_leave_the_books_right(seed):
    rng, both = random.Random(seed), Both()
    for _ in range(400):
        move(rng, both)
        both.check()
    assert both.num_hits > 0
    assert both.num_evicted > 0
