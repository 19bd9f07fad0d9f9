"""The runner for models that take our attention: all tokens of a step in one row, no padding.

Shape suffixes (this file): N = tokens of a step whose logits are wanted; V = vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from worker.engine.kernels import ATTENTION_DTYPES
from worker.engine.loader import LoadedModel
from worker.engine.packed_forward import PackedForward
from worker.engine.runner import CacheStats, Chunk
from worker.engine.slot_cache import SlotCache, SlotStep, Span
from worker.engine.slot_table import CacheCounters, Cut, SlotTable


class SlotRunner:
    """Forward passes over a cache of slots; see `runner.Runner`."""

    def __init__(
        self, loaded: LoadedModel, num_slots: int, *, reuses_prefixes: bool = True
    ) -> None:
        """Set the model to our attention.

        Args:
            loaded: The model to run; only this runner's thread may run it.
            num_slots: Sequences that may be cached at once.
            reuses_prefixes: Whether a sequence begins with what others left in the cache.
        """
        self._device = loaded.device
        self._context_length = loaded.context_length
        capacity = num_slots * loaded.context_length
        self._table = SlotTable(num_slots, capacity, reuses_prefixes=reuses_prefixes)
        self._kernels = loaded.kernels if loaded.dtype in ATTENTION_DTYPES else None
        self._cache = SlotCache(num_slots, loaded.context_length, loaded.device)
        self._forward = PackedForward(loaded)

    @property
    def max_sequence_tokens(self) -> int:
        """The context, or what fits; see `Runner.max_sequence_tokens`."""
        return min(self._context_length, self._table.capacity_tokens)

    @property
    def stats(self) -> CacheStats:
        """The cache as it is now; see `Runner.stats`."""
        used, reusable = self._table.used_tokens, self._table.reusable_tokens
        counters = self._table.counters
        return CacheStats(
            capacity_tokens=self._table.capacity_tokens,
            used_tokens=used,
            reusable_tokens=reusable,
            num_entries=self._table.num_filled,
            size_bytes=(used + reusable) * self._cache.token_bytes,
            queries=counters.queries,
            hits=counters.hits,
            evictions=counters.evictions,
        )

    @property
    def windows(self) -> dict[int, int | None]:
        """The sliding window that each layer asked for when it last ran; None: none."""
        return self._cache.windows

    def limit_memory(self, num_bytes: int) -> None:
        """Let the slots together take this much memory at most, once a forward has run.

        Args:
            num_bytes: Where it holds less than one token, that one has room all the same.
        """
        assert self._cache.token_bytes, "what a token takes is known after a forward"
        num_tokens = max(1, num_bytes // self._cache.token_bytes)
        self._table.capacity_tokens = min(self._table.capacity_tokens, num_tokens)

    @torch.inference_mode()
    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> int | None:
        """Give a sequence a slot; see `Runner.place`."""
        place = self._table.place(key, token_ids, reuse=reuse)
        if place is None:
            return None
        self._clear(place.cuts)
        if place.copy_from is not None:
            self._cache.copy(place.copy_from, place.slot, place.num_cached)
        self._cache.clear_after(place.slot, place.num_cached)
        return place.num_cached

    @torch.inference_mode()
    def reserve(self, key: int, num_tokens: int) -> bool:
        """Make room in a slot; see `Runner.reserve`."""
        cuts = self._table.reserve(key, num_tokens)
        self._clear(cuts or ())
        return cuts is not None

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run the chunks; see `Runner.run`."""
        spans, offset = [], 0
        for chunk in chunks:
            start = self._table.length_of(chunk.key)
            assert chunk.start == start, f"sequence {chunk.key}: {start} cached tokens"
            count = len(chunk.token_ids)
            spans.append(Span(self._table.slot_of(chunk.key), start, count, offset))
            offset += count
        step = SlotStep(self._cache, spans, self._device, self._kernels)
        logits_NV, nums_sound = self._forward(chunks, step)
        # Only now: a forward that raised has changed nothing that counts.
        for chunk, num_sound in zip(chunks, nums_sound, strict=True):
            self._table.extend(chunk.key, chunk.token_ids, num_sound)
        return logits_NV

    @torch.inference_mode()
    def free(self, keys: Collection[int]) -> None:
        """Give slots back; see `Runner.free`."""
        self._clear(self._table.release(keys))

    def forget(self, key: int) -> None:
        """Give a slot back and keep nothing of it, not even in the counters."""
        self._table.forget(key)
        self._table.counters = CacheCounters()

    def _clear(self, cuts: Sequence[Cut]) -> None:
        for cut in cuts:
            self._cache.clear_after(cut.slot, cut.num_left)

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that the books agree; see `Runner.check_integrity`."""
        self._table.check_integrity(lengths)
