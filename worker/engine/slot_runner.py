"""The runner for models that take our attention: all tokens of a step in one row, no padding.

Shape suffixes (this file): B = chunks; T = tokens of a step; V = vocabulary.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from worker.engine import attention
from worker.engine.loader import LoadedModel
from worker.engine.runner import Chunk
from worker.engine.slot_cache import SlotCache, SlotStep, Span
from worker.engine.slot_table import CacheCounters, SlotTable


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
        self._model = loaded.model
        self._device = loaded.device
        self._accepted = frozenset(inspect.signature(loaded.model.forward).parameters)
        self._table = SlotTable(num_slots, reuses_prefixes=reuses_prefixes)
        self._cache = SlotCache(num_slots, loaded.context_length, loaded.device)
        loaded.model.set_attn_implementation(attention.NAME)

    @property
    def counters(self) -> CacheCounters:
        """What the prefix cache saved so far."""
        return self._table.counters

    @property
    def windows(self) -> dict[int, int | None]:
        """The sliding window that each layer asked for when it last ran; None: none."""
        return self._cache.windows

    @torch.inference_mode()
    def place(self, key: int, token_ids: Sequence[int]) -> int:
        """Give a sequence a slot; see `Runner.place`."""
        place = self._table.place(key, token_ids)
        if place.copy_from is not None:
            self._cache.copy(place.copy_from, place.slot, place.num_cached)
        self._cache.clear_after(place.slot, place.num_cached)
        return place.num_cached

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
        logits_BV = self._forward(chunks, spans)
        # Only now: a forward that raised has changed nothing that counts.
        for chunk in chunks:
            self._table.extend(chunk.key, chunk.token_ids)
        return logits_BV

    def free(self, keys: Collection[int]) -> None:
        """Give slots back; see `Runner.free`."""
        self._table.release(keys)

    def forget(self, key: int) -> None:
        """Give a slot back and keep nothing of it, not even in the counters."""
        self._table.forget(key)
        self._table.counters = CacheCounters()

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that the books agree; see `Runner.check_integrity`."""
        self._table.check_integrity(lengths)

    def _forward(self, chunks: Sequence[Chunk], spans: Sequence[Span]) -> Tensor:
        ids_T = torch.tensor([token for chunk in chunks for token in chunk.token_ids])
        positions_T = torch.cat([torch.arange(span.start, span.length) for span in spans])
        last_B = torch.tensor([span.offset + span.count - 1 for span in spans])
        inputs = {
            "position_ids": positions_T[None].to(self._device),
            "logits_to_keep": last_B.to(self._device),
        }
        accepted = {name: value for name, value in inputs.items() if name in self._accepted}
        output = self._model(
            input_ids=ids_T[None].to(self._device),
            **accepted,
            use_cache=False,
            baton=SlotStep(self._cache, spans, self._device),
        )
        logits_BV: Tensor = output.logits[0]
        return logits_BV if "logits_to_keep" in accepted else logits_BV[last_B.to(self._device)]
