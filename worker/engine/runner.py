"""What runs the model's forward for some sequences and keeps their keys and values.

A runner knows sequences by an integer key and knows nothing of requests, sampling or text.

Shape suffixes (this file): N = rows, the wanted tokens of all chunks; V = vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one sequence.

    Attributes:
        key: The sequence.
        token_ids: At least one id to run and cache.
        start: How many of the sequence's tokens are cached already; 0 for a new key.
        num_logits: Of how many of its last tokens the logits are wanted.
    """

    key: int
    token_ids: Sequence[int]
    start: int
    num_logits: int = 1


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How full the cache is, and what it has saved since the model was loaded.

    Attributes:
        capacity_tokens: Tokens that fit, over all sequences.
        used_tokens: Tokens that are held for sequences which run.
        reusable_tokens: Tokens that ended sequences left, given up as soon as room is needed.
        num_entries: Blocks, slots or sequences that hold these.
        size_bytes: Memory of the used and the reusable ones.
        queries: Prompt tokens that were looked up.
        hits: Of these, tokens that were there.
        evictions: Times that tokens were given up for others.
    """

    capacity_tokens: int
    used_tokens: int
    reusable_tokens: int
    num_entries: int
    size_bytes: int
    queries: int
    hits: int
    evictions: int


class Runner(Protocol):
    """Forward passes over a cache that outlives them."""

    @property
    def max_sequence_tokens(self) -> int:
        """Tokens of one sequence at most: the context, or less where the cache holds less."""
        ...

    @property
    def stats(self) -> CacheStats:
        """The cache as it is now."""
        ...

    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> int | None:
        """Take in a new sequence, before its first chunk.

        Args:
            key: The sequence.
            token_ids: All its tokens so far, for which there shall be room.
            reuse: Whether it may begin with what others left; not where it wants all its logits.

        Returns:
            How many of the first of them are cached already and need not run, fewer than all;
            None where there is no room for them now, and then nothing has changed.
        """
        ...

    def reserve(self, key: int, num_tokens: int) -> bool:
        """Make sure that the next tokens of a sequence have room.

        Args:
            key: A sequence that was placed.
            num_tokens: How many tokens its next chunk has.

        Returns:
            Whether they have it; if not, nothing has changed.
        """
        ...

    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run each chunk after what is cached of its sequence, and cache it too.

        All or nothing: when it raises, the cache is as it was before.

        Args:
            chunks: At least one, each of another sequence, for which `reserve` found room; others
                are left alone.

        Returns:
            Logits (N, V) of the wanted tokens of each chunk, of its last token alone unless it says
            otherwise, in the order of the chunks and of their tokens.
        """
        ...

    def free(self, keys: Collection[int]) -> None:
        """Forget these sequences; a key with nothing cached is no error."""
        ...

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that exactly these sequences are cached, with these lengths in tokens."""
        ...
