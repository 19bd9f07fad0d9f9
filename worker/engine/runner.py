"""What runs the model's forward for some sequences and keeps their keys and values.

A runner knows sequences by an integer key and knows nothing of requests, sampling or text.

Shape suffixes (this file): B = rows, one per sequence; V = vocabulary.
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
    """

    key: int
    token_ids: Sequence[int]
    start: int


class Runner(Protocol):
    """Forward passes over a cache that outlives them."""

    def place(self, key: int, token_ids: Sequence[int]) -> int:
        """Make room for a new sequence, before its first chunk.

        Args:
            key: The sequence.
            token_ids: All its tokens so far.

        Returns:
            How many of the first of them are cached already and need not run, fewer than all.
        """
        ...

    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run each chunk after what is cached of its sequence, and cache it too.

        All or nothing: when it raises, the cache is as it was before.

        Args:
            chunks: At least one, each of another sequence; others are left alone.

        Returns:
            Logits (B, V) of each chunk's last token, in the order of the chunks.
        """
        ...

    def free(self, keys: Collection[int]) -> None:
        """Forget these sequences; a key with nothing cached is no error."""
        ...

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that exactly these sequences are cached, with these lengths in tokens."""
        ...
