"""Which sequence has which slot of the cache, and what each slot still holds.

A slot that is given back keeps its tokens until their room is needed: a later sequence that begins
with the same tokens does not compute them again. Slots share one number of tokens, of which each
takes what it needs. Only books: it knows no tensors.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

EVICTED_TOKENS = 64
"""Least tokens that are given up at once, so that a growing sequence seldom has to ask."""


@dataclass(slots=True)
class _Slot:
    """One slot: the tokens that it holds, whose it is, its room, and when it was given back.

    Of the tokens, the first `num_sound` may be of use to others: of what follows, something is not
    a number.
    """

    token_ids: list[int] = field(default_factory=list)
    num_sound: int = 0
    key: int | None = None
    room: int = 0
    freed_at: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Tokens that were given up: a slot, and how many it still holds."""

    slot: int
    num_left: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence was put.

    Attributes:
        slot: Its slot.
        num_cached: How many of its first tokens are cached already.
        copy_from: The slot that they have to be copied from first; None: they are in place.
        cuts: What other slots had to give up for it.
    """

    slot: int
    num_cached: int
    copy_from: int | None
    cuts: tuple[Cut, ...]


@dataclass(slots=True)
class CacheCounters:
    """How much the prefix cache saved.

    Attributes:
        queries: Prompt tokens that were looked up.
        hits: Of these, tokens that were there.
        evictions: Slots whose tokens were given up for others.
    """

    queries: int = 0
    hits: int = 0
    evictions: int = 0


class SlotTable:
    """The books of a fixed number of slots.

    Attributes:
        counters: How much the prefix cache saved.
    """

    def __init__(
        self, num_slots: int, capacity_tokens: int, *, reuses_prefixes: bool = True
    ) -> None:
        """Start with every slot free and empty.

        Args:
            num_slots: Sequences that may have a slot at once.
            capacity_tokens: Tokens that all slots together may hold.
            reuses_prefixes: Whether a sequence begins with what others left.
        """
        self._slots = [_Slot() for _ in range(num_slots)]
        self._slot_of: dict[int, int] = {}
        self._reuses_prefixes = reuses_prefixes
        self._capacity_tokens = capacity_tokens
        self._num_held = 0
        self._num_freed = 0
        self.counters = CacheCounters()

    @property
    def capacity_tokens(self) -> int:
        """Tokens that all slots together may hold."""
        return self._capacity_tokens

    @capacity_tokens.setter
    def capacity_tokens(self, num_tokens: int) -> None:
        assert self._num_held <= num_tokens, "set before anything is held"
        self._capacity_tokens = num_tokens

    @property
    def used_tokens(self) -> int:
        """Tokens that the slots of running sequences have room for."""
        return sum(slot.room for slot in self._slots if slot.key is not None)

    @property
    def reusable_tokens(self) -> int:
        """Tokens that ended sequences left."""
        return self._num_held - self.used_tokens

    @property
    def num_filled(self) -> int:
        """Slots that hold tokens, of running sequences and of ended ones."""
        return sum(bool(slot.token_ids) for slot in self._slots)

    def slot_of(self, key: int) -> int:
        """Return the slot of a sequence."""
        return self._slot_of[key]

    def length_of(self, key: int) -> int:
        """Return how many tokens of a sequence are cached."""
        return len(self._slots[self._slot_of[key]].token_ids)

    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> Place | None:
        """Give a new sequence a slot, where possible one that holds its first tokens.

        Args:
            key: The sequence.
            token_ids: All its tokens, which get room; the last one is never taken from the cache,
                because its logits are wanted.
            reuse: Whether it may begin with what others left.

        Returns:
            Where it is; None where it has no room, and then nothing has changed.
        """
        assert key not in self._slot_of, f"sequence {key} has a slot"
        free = [index for index, slot in enumerate(self._slots) if slot.key is None]
        if not free:
            return None
        donor, num_cached = self._best_donor(token_ids) if reuse else (None, 0)
        takes_over = donor is not None and self._slots[donor].key is None
        index = donor if takes_over and donor is not None else min(free, key=self._worth)
        slot = self._slots[index]
        # A donor that is free and is copied from does not exist: such a one is taken over.
        cuts = self._make_room(len(token_ids) - slot.room, keep=index)
        if cuts is None:
            return None
        self.counters.queries += len(token_ids)
        self.counters.hits += num_cached
        self.counters.evictions += bool(slot.token_ids) and not takes_over
        self._num_held += len(token_ids) - slot.room
        slot.token_ids = list(token_ids[:num_cached])
        slot.num_sound = num_cached
        slot.room = len(token_ids)
        slot.key = key
        self._slot_of[key] = index
        copy_from = None if takes_over or not num_cached else donor
        return Place(index, num_cached, copy_from, tuple(cuts))

    def reserve(self, key: int, num_tokens: int) -> list[Cut] | None:
        """Make room for the next tokens of a sequence.

        Returns:
            What other slots had to give up; None where there is no room, and then nothing has
            changed.
        """
        slot = self._slots[self._slot_of[key]]
        num_more = len(slot.token_ids) + num_tokens - slot.room
        if num_more <= 0:
            return []
        cuts = self._make_room(num_more, keep=None)
        if cuts is not None:
            slot.room += num_more
            self._num_held += num_more
        return cuts

    def extend(self, key: int, token_ids: Sequence[int], num_sound: int | None = None) -> None:
        """Note that more tokens of a sequence are cached now, for which it has room.

        Args:
            key: The sequence.
            token_ids: The tokens.
            num_sound: How many of the first of them have keys and values that are numbers; None:
                all. What follows others is never of use to another sequence.
        """
        slot = self._slots[self._slot_of[key]]
        if slot.num_sound == len(slot.token_ids):
            slot.num_sound += len(token_ids) if num_sound is None else num_sound
        slot.token_ids.extend(token_ids)
        assert len(slot.token_ids) <= slot.room, f"sequence {key} has no room"

    def release(self, keys: Collection[int]) -> list[Cut]:
        """Take these sequences' slots back; what is in them may still be of use.

        Returns:
            What they had to give up, because it is of none.
        """
        cuts = []
        for key in keys:
            index = self._slot_of.pop(key, None)
            if index is None:
                continue
            slot = self._slots[index]
            if slot.num_sound < len(slot.token_ids):
                del slot.token_ids[slot.num_sound :]
                cuts.append(Cut(index, slot.num_sound))
            self._num_freed += 1
            self._num_held -= slot.room - len(slot.token_ids)
            slot.key, slot.freed_at, slot.room = None, self._num_freed, len(slot.token_ids)
        return cuts

    def forget(self, key: int) -> None:
        """Take a sequence's slot back and drop what is in it."""
        slot = self._slots[self._slot_of[key]]
        slot.token_ids.clear()
        slot.num_sound = 0
        self.release([key])

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that exactly these sequences have slots, each its own, with these lengths."""
        held = {key: length for key in self._slot_of if (length := self.length_of(key))}
        assert held == dict(lengths), f"cached {held}, expected {dict(lengths)}"
        owners = {slot.key: index for index, slot in enumerate(self._slots) if slot.key is not None}
        assert owners == self._slot_of, f"slots {owners}, sequences {self._slot_of}"
        rooms = [slot.room for slot in self._slots]
        assert sum(rooms) == self._num_held <= self._capacity_tokens, f"rooms {rooms}"
        for slot in self._slots:
            num_cached = len(slot.token_ids)
            assert slot.num_sound <= num_cached
            assert slot.key is not None or slot.num_sound == num_cached
            assert num_cached <= slot.room if slot.key is not None else num_cached == slot.room

    def _make_room(self, num_more: int, keep: int | None) -> list[Cut] | None:
        """Let free slots give up their last tokens, those first that were given back first."""
        num_over = self._num_held + num_more - self._capacity_tokens
        if num_over <= 0:
            return []
        free = [
            index
            for index, slot in enumerate(self._slots)
            if slot.key is None and slot.token_ids and index != keep
        ]
        if sum(self._slots[index].room for index in free) < num_over:
            return None
        cuts = []
        for index in sorted(free, key=lambda index: self._slots[index].freed_at):
            if num_over <= 0:
                break
            slot = self._slots[index]
            num_cut = min(slot.room, max(num_over, EVICTED_TOKENS))
            del slot.token_ids[slot.room - num_cut :]
            slot.room -= num_cut
            slot.num_sound = slot.room
            self._num_held -= num_cut
            num_over -= num_cut
            self.counters.evictions += 1
            cuts.append(Cut(index, slot.room))
        return cuts

    def _best_donor(self, token_ids: Sequence[int]) -> tuple[int | None, int]:
        """The slot with the longest common beginning; a free one where two are equal."""
        if not self._reuses_prefixes:
            return None, 0
        wanted = list(token_ids[:-1])
        best, most = None, 0
        for index, slot in enumerate(self._slots):
            common = min(slot.num_sound, _num_common(slot.token_ids, wanted))
            if common > most or (common == most > 0 and slot.key is None):
                best, most = index, common
        return best, most

    def _worth(self, index: int) -> tuple[bool, int]:
        """What is lost with a slot's tokens: nothing with an empty one, else the older the less."""
        slot = self._slots[index]
        return bool(slot.token_ids), slot.freed_at


def _num_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning, by halving: slices compare at the speed of memory."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
