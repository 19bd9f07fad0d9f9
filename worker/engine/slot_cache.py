"""Keys and values of several sequences, each in a slot of its own, contiguous from its first token.

The addresses of a slot are reserved for a whole context; memory is taken from the system where
something is written, and goes back to it once that is given up. What lies beyond a sequence's
length is zero or its own: a mask alone would not hold back what is not a number.

Shape suffixes (this file): S = slots; C = tokens of a context; K = key-value heads; D = head size;
T = tokens of a step; H = query heads; G = query heads that share a key-value head.
"""

import math
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.attention import Rules, weigh
from worker.engine.kernels import DecodeAttention, Kernels

# Addresses alone are no memory: the system need not keep any for them. Python 3.11 lacks the name.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

LEAST_SHARE = 0.7
"""Of the columns that a batch of decodes reads, the share that must be of use; else it is split."""


@dataclass(frozen=True, slots=True)
class Span:
    """New tokens of one sequence within a step.

    Attributes:
        slot: Where they are cached.
        start: How many tokens of the sequence were cached before.
        count: How many there are.
        offset: Index of the first of them among the tokens of the step.
    """

    slot: int
    start: int
    count: int
    offset: int

    @property
    def length(self) -> int:
        """Tokens of the sequence after the step."""
        return self.start + self.count


class SlotCache:
    """The tensors, made when a layer is first written to.

    Attributes:
        windows: The sliding window that each layer asked for; None: none.
    """

    def __init__(self, num_slots: int, num_tokens: int, device: torch.device) -> None:
        """Reserve nothing yet.

        Args:
            num_slots: S.
            num_tokens: C.
            device: Where the tensors go.
        """
        self._shape = (num_slots, num_tokens)
        self._device = device
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._memory: dict[int, mmap.mmap] = {}
        self.windows: dict[int, int | None] = {}
        self._num_written = [0] * num_slots

    @property
    def token_bytes(self) -> int:
        """Memory of one token, over all layers that were written to."""
        tensors = (*self._keys.values(), *self._values.values())
        return sum(t.shape[1] * t.shape[3] * t.element_size() for t in tensors)

    def layer(self, layer: int, key_KTD: Tensor, value_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, each (S, K, C, D)."""
        if layer not in self._keys:
            self._keys[layer] = self._reserve(key_KTD)
            self._values[layer] = self._reserve(value_KTD)
        return self._keys[layer], self._values[layer]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of a slot to another one."""
        for tensors in (self._keys, self._values):
            for tensor in tensors.values():
                tensor[target, :, :num_tokens] = tensor[source, :, :num_tokens]

    def note_written(self, slot: int, num_tokens: int) -> None:
        """Note that a step is about to write up to this many tokens of a slot."""
        self._num_written[slot] = max(self._num_written[slot], num_tokens)

    def clear_after(self, slot: int, num_tokens: int) -> None:
        """Zero what others left in a slot after its first tokens, and give its memory back."""
        num_written, self._num_written[slot] = self._num_written[slot], num_tokens
        if num_tokens < num_written:
            for tensor in (*self._keys.values(), *self._values.values()):
                tail_KTD = tensor[slot, :, num_tokens:num_written]
                memory = self._memory.get(tensor.data_ptr())
                if memory is None:
                    tail_KTD.zero_()
                    continue
                for tail_TD in tail_KTD:
                    start = tail_TD.data_ptr() - tensor.data_ptr()
                    _zero(memory, tail_TD, start)

    def _reserve(self, like_KTD: Tensor) -> Tensor:
        num_slots, num_tokens = self._shape
        heads, _, size = like_KTD.shape
        shape, dtype = (num_slots, heads, num_tokens, size), like_KTD.dtype
        if self._device.type != "cpu" or not hasattr(mmap, "MADV_DONTNEED"):
            return torch.zeros(shape, dtype=dtype, device=self._device)
        # Zeros of the system's own cost nothing until they are written, and can be given back.
        num_bytes = math.prod(shape) * dtype.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        memory = mmap.mmap(-1, num_bytes, flags=flags)
        tensor = torch.frombuffer(memory, dtype=dtype).view(shape)
        self._memory[tensor.data_ptr()] = memory
        return tensor


def _zero(memory: mmap.mmap, tail_TD: Tensor, start: int) -> None:
    """Zero a run of memory: whole pages by giving them back, the rest by hand.

    Args:
        memory: Private and anonymous, so that a page that was given back reads as zero.
        tail_TD: The run, contiguous.
        start: Its first byte in the memory.
    """
    end = start + tail_TD.numel() * tail_TD.element_size()
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first >= last:
        tail_TD.zero_()
        return
    memory.madvise(mmap.MADV_DONTNEED, first, last - first)
    flat = tail_TD.view(-1)
    flat[: (first - start) // tail_TD.element_size()] = 0
    flat[(last - start) // tail_TD.element_size() :] = 0


class SlotStep:
    """One forward pass over a `SlotCache`; see `attention.Step`."""

    def __init__(
        self,
        cache: SlotCache,
        spans: Sequence[Span],
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """Plan the reads and writes, which are the same for every layer.

        Args:
            cache: Where keys and values lie.
            spans: The new tokens.
            device: Of the cache.
            kernels: They attend to sequences with one new token, in a dtype of theirs; None:
                torch does.
        """
        self._cache = cache
        self._device = device
        singles = sorted((s for s in spans if s.count == 1), key=lambda span: span.slot)
        self._longer = [span for span in spans if span.count > 1]
        self._decodes = _plan(kernels, singles) if kernels is not None and singles else None
        self._runs = [] if self._decodes is not None else _split_into_runs(singles)
        self._slots_T = torch.tensor([span.slot for span in singles], device=device)
        self._positions_T = torch.tensor([span.start for span in singles], device=device)
        self._rows_T = torch.tensor([span.offset for span in singles], device=device)
        self._seen: dict[tuple[int, int | None], tuple[int, Tensor | None]] = {}
        for span in spans:
            cache.note_written(span.slot, span.length)

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, rules: Rules
    ) -> Tensor:
        """Cache the new keys and values, and return what each token sees, as (T, H, D)."""
        self._cache.windows[layer] = rules.window
        keys, values = self._cache.layer(layer, key_KTD, value_KTD)
        num_heads, num_tokens, _ = query_HTD.shape
        out_THD = query_HTD.new_empty(num_tokens, num_heads, value_KTD.shape[-1])
        if self._decodes is not None:
            self._decodes(query_HTD, key_KTD, value_KTD, keys, values, rules, out_THD)
        elif self._runs:
            self._write_singles(keys, key_KTD)
            self._write_singles(values, value_KTD)
            for index, run in enumerate(self._runs):
                self._attend_run(index, run, query_HTD, keys, values, rules, out_THD)
        for span in self._longer:
            new = slice(span.offset, span.offset + span.count)
            keys[span.slot, :, span.start : span.length] = key_KTD[:, new]
            values[span.slot, :, span.start : span.length] = value_KTD[:, new]
            self._attend_span(span, query_HTD, keys, values, rules, out_THD)
        return out_THD

    def _write_singles(self, cached: Tensor, new_KTD: Tensor) -> None:
        cached[self._slots_T, :, self._positions_T] = new_KTD[:, self._rows_T].transpose(0, 1)

    def _attend_run(
        self,
        index: int,
        run: Sequence[Span],
        query_HTD: Tensor,
        keys: Tensor,
        values: Tensor,
        rules: Rules,
        out_THD: Tensor,
    ) -> None:
        """Decodes in neighbouring slots, one token each, side by side."""
        name = (index, rules.window)
        if name not in self._seen:
            self._seen[name] = self._seen_by_run(run, rules.window)
        first, allowed = self._seen[name]
        last = max(span.length for span in run)
        slots = slice(run[0].slot, run[-1].slot + 1)
        rows = [span.offset for span in run]
        num_kv_heads = keys.shape[1]
        query_BHD = query_HTD[:, rows].transpose(0, 1)
        query_BKGD = query_BHD.reshape(len(rows), num_kv_heads, -1, query_HTD.shape[-1])
        seen_keys, seen_values = keys[slots, :, first:last], values[slots, :, first:last]
        out_BKGD = weigh(query_BKGD, seen_keys, seen_values, allowed, rules)
        out_THD[rows] = out_BKGD.flatten(1, 2)

    def _seen_by_run(self, run: Sequence[Span], window: int | None) -> tuple[int, Tensor | None]:
        """The first column that any of them sees, and a mask (B, 1, 1, L) where they differ."""
        lengths = [span.length for span in run]
        firsts = [0 if window is None else max(0, length - window) for length in lengths]
        if len(set(lengths)) == 1:
            return firsts[0], None
        first, last = min(firsts), max(lengths)
        columns = torch.arange(first, last, device=self._device)
        ends = torch.tensor(lengths, device=self._device)[:, None]
        begins = torch.tensor(firsts, device=self._device)[:, None]
        return first, ((columns < ends) & (columns >= begins))[:, None, None]

    def _attend_span(
        self,
        span: Span,
        query_HTD: Tensor,
        keys: Tensor,
        values: Tensor,
        rules: Rules,
        out_THD: Tensor,
    ) -> None:
        """A chunk of a prompt: each token sees those before it."""
        window = rules.window if rules.window is not None and rules.window < span.length else None
        first = 0 if window is None else max(0, span.start + 1 - window)
        seen_keys = keys[span.slot : span.slot + 1, :, first : span.length]
        seen_values = values[span.slot : span.slot + 1, :, first : span.length]
        query_HQD = query_HTD[:, span.offset : span.offset + span.count]
        rows = slice(span.offset, span.offset + span.count)
        is_plain = rules.softcap is None and rules.sinks_H is None
        if is_plain and window is None and span.start == 0:
            out_BHQD = functional.scaled_dot_product_attention(
                query_HQD[None],
                seen_keys,
                seen_values,
                is_causal=True,
                scale=rules.scaling,
                enable_gqa=True,
            )
            out_THD[rows] = out_BHQD[0].transpose(0, 1)
            return
        num_kv_heads = keys.shape[1]
        # The queries that share keys lie one after another: no key is read twice.
        query_BKQD = query_HQD.reshape(1, num_kv_heads, -1, query_HTD.shape[-1])
        allowed = self._seen_by_span(span, first, window)
        allowed = allowed.repeat(query_BKQD.shape[2] // span.count, 1)
        out_BKQD = weigh(query_BKQD, seen_keys, seen_values, allowed, rules)
        out_HQD = out_BKQD.reshape(-1, span.count, out_BKQD.shape[-1])
        out_THD[rows] = out_HQD.transpose(0, 1)

    def _seen_by_span(self, span: Span, first: int, window: int | None) -> Tensor:
        """A mask (Q, L): no token sees a later one, nor one before its window."""
        columns = torch.arange(first, span.length, device=self._device)
        positions = torch.arange(span.start, span.length, device=self._device)[:, None]
        allowed = columns <= positions
        return allowed if window is None else allowed & (columns > positions - window)


def _plan(kernels: Kernels, singles: Sequence[Span]) -> DecodeAttention:
    slots, rows = [span.slot for span in singles], [span.offset for span in singles]
    return DecodeAttention(kernels, slots, rows, [span.length for span in singles])


def _split_into_runs(singles: Sequence[Span]) -> list[list[Span]]:
    """Part decodes, in the order of their slots, into those that are worth one read together."""
    runs: list[list[Span]] = []
    for span in singles:
        run = runs[-1] if runs else []
        if run and run[-1].slot + 1 == span.slot and _share([*run, span]) >= LEAST_SHARE:
            run.append(span)
        else:
            runs.append([span])
    return runs


def _share(run: Sequence[Span]) -> float:
    lengths = [span.length for span in run]
    return sum(lengths) / (len(lengths) * max(lengths))
