"""Which blocks of the cache hold which sequence, and what the blocks of ended ones still hold.

The cache is parted into blocks of as many tokens each. A block that is full is filed under a digest
of its tokens and all before them, and a sequence that begins with the same tokens takes it instead
of computing it again, while others still run on it as well as after they have ended. Only full
blocks are shared and nothing is written into a full block, so none is ever copied. Only books: it
knows no tensors.
"""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from worker.engine.slot_table import CacheCounters

BLOCK_TOKENS = 16
"""Tokens of a block."""

# With 256 bits of BLAKE2b nobody can find two texts of one digest: tokens need not be compared.
_DIGEST_BYTES = 32
_ROOT = b""


@dataclass(slots=True)
class _Block:
    """One block: how many sequences use it, and under what it is filed.

    Attributes:
        num_uses: Sequences that have it.
        digest: Of its tokens and all before them; None: it is not filed.
        parent: The digest of the block before it.
        token_ids: Its tokens, where it is filed.
    """

    num_uses: int = 0
    digest: bytes | None = None
    parent: bytes = _ROOT
    token_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class _Held:
    """What one sequence has.

    Attributes:
        blocks: Its blocks in the order of its tokens; the last ones may be empty yet.
        length: Its cached tokens.
        num_sound: How many of the first of them may be of use to others: of what follows, something
            is not a number.
        digest: Of the full blocks of these.
        tail: Its sound tokens after those, fewer than a block.
    """

    blocks: list[int]
    length: int
    num_sound: int
    digest: bytes
    tail: list[int] = field(default_factory=list)


class BlockTable:
    """The books of a fixed number of blocks.

    Attributes:
        counters: How much the prefix cache saved; an eviction is of one block.
    """

    def __init__(
        self, num_blocks: int, block_size: int = BLOCK_TOKENS, *, reuses_prefixes: bool = True
    ) -> None:
        """Start with every block free.

        Args:
            num_blocks: Blocks that there are.
            block_size: Tokens of each.
            reuses_prefixes: Whether a sequence begins with what others computed.
        """
        assert num_blocks > 0
        assert block_size > 0
        self.counters = CacheCounters()
        self._block_size = block_size
        self._reuses_prefixes = reuses_prefixes
        self._blocks = [_Block() for _ in range(num_blocks)]
        self._held: dict[int, _Held] = {}
        self._filed: dict[bytes, int] = {}
        # The lowest is taken first, so that memory is touched only where it is needed.
        self._free = list(reversed(range(num_blocks)))
        # Filed blocks that no sequence uses, the least recently used first. A block comes before
        # the one that it follows: without that one it could never be found.
        self._reusable: OrderedDict[int, None] = OrderedDict()

    @property
    def num_blocks(self) -> int:
        """Blocks that there are."""
        return len(self._blocks)

    @property
    def num_free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def num_reusable(self) -> int:
        """Blocks of ended sequences that may be found again, and are given up for others."""
        return len(self._reusable)

    @property
    def num_used(self) -> int:
        """Blocks of running sequences, a shared one counted once."""
        return self.num_blocks - self.num_free - self.num_reusable

    def blocks_of(self, key: int) -> Sequence[int]:
        """Return the blocks of a sequence, in the order of its tokens; do not keep it."""
        return self._held[key].blocks

    def length_of(self, key: int) -> int:
        """Return how many tokens of a sequence are cached."""
        return self._held[key].length

    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> int | None:
        """Give a new sequence the longest chain of full blocks there is, and room for the rest.

        Args:
            key: The sequence.
            token_ids: All its tokens; the last one is never taken from the cache, because its
                logits are wanted.
            reuse: Whether it may begin with what is there.

        Returns:
            How many of its first tokens are cached already; None where there is no room for the
            rest, and then nothing has changed.
        """
        assert key not in self._held, f"sequence {key} is placed"
        found, digest = self._find(token_ids) if reuse else ([], _ROOT)
        num_new = self._num_blocks_for(len(token_ids)) - len(found)
        num_taken = sum(not self._blocks[index].num_uses for index in found)
        if num_new > self.num_free + self.num_reusable - num_taken:
            return None
        for index in found:
            self._use(index)
        blocks = found + [self._take() for _ in range(num_new)]
        num_cached = len(found) * self._block_size
        self._held[key] = _Held(blocks, num_cached, num_cached, digest)
        self.counters.queries += len(token_ids)
        self.counters.hits += num_cached
        return num_cached

    def reserve(self, key: int, num_tokens: int) -> bool:
        """Give a sequence blocks for its next tokens.

        Args:
            key: A sequence that was placed.
            num_tokens: How many follow what is cached of it.

        Returns:
            Whether they have room; if not, nothing has changed.
        """
        held = self._held[key]
        num_new = self._num_blocks_for(held.length + num_tokens) - len(held.blocks)
        if num_new > self.num_free + self.num_reusable:
            return False
        held.blocks += [self._take() for _ in range(num_new)]
        return True

    def extend(self, key: int, token_ids: Sequence[int], num_sound: int | None = None) -> None:
        """Note that more tokens of a sequence are cached now, and file the blocks they fill.

        Args:
            key: The sequence, which has room for them.
            token_ids: The tokens.
            num_sound: How many of the first of them have keys and values that are numbers; None:
                all. What follows others is not filed.
        """
        held = self._held[key]
        sound_ids = token_ids[:num_sound] if held.num_sound == held.length else ()
        place = held.num_sound // self._block_size
        held.num_sound += len(sound_ids)
        held.length += len(token_ids)
        assert held.length <= len(held.blocks) * self._block_size, f"sequence {key} has no room"
        if not self._reuses_prefixes:
            return
        held.tail += sound_ids
        while len(held.tail) >= self._block_size:
            self._file(held, place, tuple(held.tail[: self._block_size]))
            del held.tail[: self._block_size]
            place += 1

    def release(self, keys: Collection[int]) -> None:
        """Take these sequences' blocks back; what is in full ones may still be of use."""
        for key in keys:
            held = self._held.pop(key, None)
            if held is not None:
                # From the end, so that a text is given up from its end.
                for index in reversed(held.blocks):
                    self._let_go(index)

    def forget(self, key: int) -> None:
        """Take a sequence's blocks back and drop what no other sequence uses or continues."""
        blocks = list(self._held[key].blocks)
        self.release([key])
        num_next = Counter(self._blocks[index].parent for index in self._filed.values())
        for index in reversed(blocks):
            digest = self._blocks[index].digest
            if index in self._reusable and digest is not None and not num_next[digest]:
                num_next[self._blocks[index].parent] -= 1
                del self._reusable[index]
                self._drop(index)
                self._free.append(index)

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that exactly these sequences are cached, with these lengths, and no book lies.

        Every block is free, reusable or used, and used by as many sequences as it counts; what is
        filed is what the block holds, can be found, and is given up before what it follows.
        """
        cached = {key: held.length for key, held in self._held.items() if held.length}
        assert cached == dict(lengths), f"cached {cached}, expected {dict(lengths)}"
        uses = Counter(index for held in self._held.values() for index in held.blocks)
        for index, block in enumerate(self._blocks):
            assert block.num_uses == uses[index], f"block {index} is used {uses[index]} times"
        homes = [*self._free, *self._reusable, *uses]
        assert sorted(homes) == list(range(self.num_blocks)), f"blocks {homes}"
        assert all(self._blocks[index].digest is None for index in self._free)
        assert all(self._blocks[index].digest is not None for index in self._reusable)
        for held in self._held.values():
            self._check_held(held)
        self._check_filed()

    def _check_held(self, held: _Held) -> None:
        assert len(held.blocks) == len(set(held.blocks)), f"a block twice: {held.blocks}"
        assert held.num_sound <= held.length
        assert self._num_blocks_for(held.length) <= len(held.blocks)
        if not self._reuses_prefixes:
            return
        num_full, num_more = divmod(held.num_sound, self._block_size)
        assert len(held.tail) == num_more
        digest = _ROOT
        for index in held.blocks[:num_full]:
            assert self._blocks[index].parent == digest, f"block {index} follows another text"
            digest = self._blocks[index].digest or _ROOT
        assert digest == held.digest
        assert all(self._blocks[index].digest is None for index in held.blocks[num_full:])

    def _check_filed(self) -> None:
        turn = {index: turn for turn, index in enumerate(self._reusable)}
        for digest, index in self._filed.items():
            block = self._blocks[index]
            assert block.digest == digest == _digest(block.parent, block.token_ids)
            assert len(block.token_ids) == self._block_size
            if block.parent != _ROOT:
                before = self._filed[block.parent]
                assert turn.get(index, -1) < turn.get(before, self.num_blocks), "out of reach"
        num_digests = sum(block.digest is not None for block in self._blocks)
        assert num_digests == len(self._filed), "a block is filed under nothing"

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def _find(self, token_ids: Sequence[int]) -> tuple[list[int], bytes]:
        """The longest chain of filed blocks, all but the last token at most, and its digest."""
        found: list[int] = []
        digest = _ROOT
        for start in range(0, len(token_ids) - self._block_size, self._block_size):
            following = _digest(digest, token_ids[start : start + self._block_size])
            index = self._filed.get(following)
            if index is None:
                break
            found.append(index)
            digest = following
        return found, digest

    def _file(self, held: _Held, place: int, token_ids: tuple[int, ...]) -> None:
        """File a block that is full, or take the one that was filed before it with the same text.

        With one block for one text, each that is filed has the one before it filed as long.
        """
        index, parent = held.blocks[place], held.digest
        held.digest = _digest(parent, token_ids)
        other = self._filed.get(held.digest)
        if other is None:
            block = self._blocks[index]
            block.digest, block.parent, block.token_ids = held.digest, parent, token_ids
            self._filed[held.digest] = index
            return
        self._use(other)
        held.blocks[place] = other
        self._let_go(index)

    def _use(self, index: int) -> None:
        self._reusable.pop(index, None)
        self._blocks[index].num_uses += 1

    def _let_go(self, index: int) -> None:
        block = self._blocks[index]
        block.num_uses -= 1
        if block.num_uses:
            return
        if block.digest is None:
            self._free.append(index)
        else:
            self._reusable[index] = None

    def _take(self) -> int:
        """Take a block that holds nothing, else the one that was used least recently."""
        if self._free:
            index = self._free.pop()
        else:
            index, _ = self._reusable.popitem(last=False)
            self._drop(index)
            self.counters.evictions += 1
        self._blocks[index].num_uses = 1
        return index

    def _drop(self, index: int) -> None:
        digest = self._blocks[index].digest
        assert digest is not None
        del self._filed[digest]
        self._blocks[index] = _Block()


def _digest(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the digest of a block's tokens and of all before them."""
    ids = array("q", token_ids).tobytes()
    return hashlib.blake2b(parent + ids, digest_size=_DIGEST_BYTES).digest()
