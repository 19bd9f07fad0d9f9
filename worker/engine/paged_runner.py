"""The runner over a cache of blocks: a sequence takes as many as it needs, and shares them.

Shape suffixes (this file): N = rows, the wanted tokens of all chunks; V = vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from worker.engine.block_table import BLOCK_TOKENS, BlockTable
from worker.engine.loader import LoadedModel
from worker.engine.packed_forward import PackedForward
from worker.engine.paged_cache import PagedCache, PagedSpan, PagedStep
from worker.engine.runner import CacheStats, Chunk
from worker.engine.slot_table import CacheCounters


class PagedRunner:
    """Forward passes over a cache of blocks; see `runner.Runner`."""

    def __init__(
        self,
        loaded: LoadedModel,
        num_blocks: int,
        *,
        block_size: int = BLOCK_TOKENS,
        reuses_prefixes: bool = True,
    ) -> None:
        """Set the model to our attention.

        Args:
            loaded: The model to run; only this runner's thread may run it.
            num_blocks: Blocks of the cache.
            block_size: Tokens of a block.
            reuses_prefixes: Whether a sequence begins with what others left in the cache.
        """
        self._device = loaded.device
        self._block_size = block_size
        self._max_sequence_tokens = min(loaded.context_length, num_blocks * block_size)
        self._table = BlockTable(num_blocks, block_size, reuses_prefixes=reuses_prefixes)
        self._cache = PagedCache(num_blocks, block_size, loaded.device)
        self._forward = PackedForward(loaded)

    @property
    def max_sequence_tokens(self) -> int:
        """The context, or what fits; see `Runner.max_sequence_tokens`."""
        return self._max_sequence_tokens

    @property
    def stats(self) -> CacheStats:
        """The cache as it is now, in whole blocks; see `Runner.stats`."""
        used = self._table.num_used * self._block_size
        reusable = self._table.num_reusable * self._block_size
        counters = self._table.counters
        return CacheStats(
            capacity_tokens=self._table.num_blocks * self._block_size,
            used_tokens=used,
            reusable_tokens=reusable,
            num_entries=self._table.num_blocks - self._table.num_free,
            size_bytes=(used + reusable) * self._cache.token_bytes,
            queries=counters.queries,
            hits=counters.hits,
            evictions=counters.evictions,
        )

    @property
    def block_bytes(self) -> int:
        """Memory of one block, over all layers; 0 before the first forward."""
        return self._block_size * self._cache.token_bytes

    @property
    def windows(self) -> dict[int, int | None]:
        """The sliding window that each layer asked for when it last ran; None: none."""
        return self._cache.windows

    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> int | None:
        """Give a sequence blocks for all its tokens; see `Runner.place`."""
        return self._table.place(key, token_ids, reuse=reuse)

    def reserve(self, key: int, num_tokens: int) -> bool:
        """Give a sequence blocks for its next tokens; see `Runner.reserve`."""
        return self._table.reserve(key, num_tokens)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run the chunks; see `Runner.run`."""
        spans, offset = [], 0
        for chunk in chunks:
            start = self._table.length_of(chunk.key)
            assert chunk.start == start, f"sequence {chunk.key}: {start} cached tokens"
            blocks, count = self._table.blocks_of(chunk.key), len(chunk.token_ids)
            spans.append(PagedSpan(blocks, start, count, offset))
            offset += count
        step = PagedStep(self._cache, spans, self._device)
        logits_NV, nums_sound = self._forward(chunks, step)
        # Only now: a forward that raised has changed nothing that counts.
        for chunk, num_sound in zip(chunks, nums_sound, strict=True):
            self._table.extend(chunk.key, chunk.token_ids, num_sound)
        return logits_NV

    def free(self, keys: Collection[int]) -> None:
        """Take blocks back; see `Runner.free`."""
        self._table.release(keys)

    def forget(self, key: int) -> None:
        """Take blocks back and keep nothing that is only theirs, not even in the counters."""
        self._table.forget(key)
        self._table.counters = CacheCounters()

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that the books agree; see `Runner.check_integrity`."""
        self._table.check_integrity(lengths)
