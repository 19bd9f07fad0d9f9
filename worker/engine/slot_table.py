"""Which sequence has which slot of the cache, and what each slot still holds.

A slot that is given back keeps its tokens until it is needed: a later sequence that begins with the
same tokens does not compute them again. Only books: it knows no tensors.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Slot:
    """One slot: the tokens that it holds, whose it is, and when it was given back."""

    token_ids: list[int] = field(default_factory=list)
    key: int | None = None
    freed_at: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence was put.

    Attributes:
        slot: Its slot.
        num_cached: How many of its first tokens are cached already.
        copy_from: The slot that they have to be copied from first; None: they are in place.
    """

    slot: int
    num_cached: int
    copy_from: int | None


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
    """The books of a fixed number of slots."""

    def __init__(self, num_slots: int, *, reuses_prefixes: bool = True) -> None:
        """Start with every slot free and empty."""
        self._slots = [_Slot() for _ in range(num_slots)]
        self._slot_of: dict[int, int] = {}
        self._reuses_prefixes = reuses_prefixes
        self._num_freed = 0
        self.counters = CacheCounters()

    def __contains__(self, key: int) -> bool:
        return key in self._slot_of

    @property
    def num_cached_tokens(self) -> int:
        """Tokens in all slots, those of ended sequences counted."""
        return sum(len(slot.token_ids) for slot in self._slots)

    def slot_of(self, key: int) -> int:
        """Return the slot of a sequence."""
        return self._slot_of[key]

    def length_of(self, key: int) -> int:
        """Return how many tokens of a sequence are cached."""
        return len(self._slots[self._slot_of[key]].token_ids)

    def place(self, key: int, token_ids: Sequence[int]) -> Place:
        """Give a new sequence a slot, where possible one that holds its first tokens.

        Args:
            key: The sequence.
            token_ids: All its tokens; the last one is never taken from the cache, because its
                logits are wanted.
        """
        assert key not in self._slot_of, f"sequence {key} has a slot"
        donor, num_cached = self._best_donor(token_ids)
        free = [index for index, slot in enumerate(self._slots) if slot.key is None]
        assert free, "no slot is free"
        takes_over = donor is not None and self._slots[donor].key is None
        index = donor if takes_over and donor is not None else min(free, key=self._worth)
        slot = self._slots[index]
        self.counters.queries += len(token_ids)
        self.counters.hits += num_cached
        self.counters.evictions += bool(slot.token_ids) and not takes_over
        slot.token_ids = list(token_ids[:num_cached])
        slot.key = key
        self._slot_of[key] = index
        return Place(index, num_cached, None if takes_over or not num_cached else donor)

    def extend(self, key: int, token_ids: Sequence[int]) -> None:
        """Note that more tokens of a sequence are cached now."""
        self._slots[self._slot_of[key]].token_ids.extend(token_ids)

    def release(self, keys: Collection[int]) -> None:
        """Take these sequences' slots back; what is in them may still be of use."""
        for key in keys:
            index = self._slot_of.pop(key, None)
            if index is not None:
                self._num_freed += 1
                self._slots[index].key, self._slots[index].freed_at = None, self._num_freed

    def forget(self, key: int) -> None:
        """Take a sequence's slot back and drop what is in it."""
        self._slots[self._slot_of[key]].token_ids.clear()
        self.release([key])

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that exactly these sequences have slots, each its own, with these lengths."""
        held = {key: length for key in self._slot_of if (length := self.length_of(key))}
        assert held == dict(lengths), f"cached {held}, expected {dict(lengths)}"
        owners = {slot.key: index for index, slot in enumerate(self._slots) if slot.key is not None}
        assert owners == self._slot_of, f"slots {owners}, sequences {self._slot_of}"

    def _best_donor(self, token_ids: Sequence[int]) -> tuple[int | None, int]:
        """The slot with the longest common beginning; a free one where two are equal."""
        if not self._reuses_prefixes:
            return None, 0
        wanted = list(token_ids[:-1])
        best, most = None, 0
        for index, slot in enumerate(self._slots):
            common = _num_common(slot.token_ids, wanted)
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
