"""Keys and values in blocks of some tokens each, read and written through block tables.

Nothing is cleared: no memory is read that does not hold a token of the sequence that reads it, so
what others left there, a number or not, cannot matter.

Shape suffixes (this file): N = blocks; P = tokens of a block; S = N * P, tokens of all blocks; K =
key-value heads; D = head size; T = tokens of a step; H = query heads; B = sequences side by side;
Q = new tokens of each; L = cached tokens that each reads; G = query heads that share a key-value
head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.attention import Rules, weigh

LEAST_SHARE = 0.7
"""Of the columns that decodes read side by side, the share that must be of use; else they part."""
MOST_READ_TOKENS = 1 << 17
"""Tokens that decodes read side by side at most: what is read is copied first."""


@dataclass(frozen=True, slots=True)
class PagedSpan:
    """New tokens of one sequence within a step.

    Attributes:
        blocks: Where the sequence is cached, in the order of its tokens.
        start: How many tokens of the sequence were cached before.
        count: How many there are.
        offset: Index of the first of them among the tokens of the step.
    """

    blocks: Sequence[int]
    start: int
    count: int
    offset: int

    @property
    def length(self) -> int:
        """Tokens of the sequence after the step."""
        return self.start + self.count


class PagedCache:
    """The tensors, made when a layer is first written to.

    Attributes:
        block_size: P.
        windows: The sliding window that each layer asked for; None: none.
    """

    def __init__(self, num_blocks: int, block_size: int, device: torch.device) -> None:
        """Reserve nothing yet.

        Args:
            num_blocks: N.
            block_size: P.
            device: Where the tensors go.
        """
        self.block_size = block_size
        self.windows: dict[int, int | None] = {}
        self._num_blocks = num_blocks
        self._device = device
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    @property
    def token_bytes(self) -> int:
        """Memory of one token, over all layers that were written to."""
        tensors = (*self._keys.values(), *self._values.values())
        return sum(t.shape[2] * t.shape[3] * t.element_size() for t in tensors)

    def layer(self, layer: int, key_KTD: Tensor, value_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, each (N, P, K, D)."""
        if layer not in self._keys:
            self._keys[layer] = self._reserve(key_KTD)
            self._values[layer] = self._reserve(value_KTD)
        return self._keys[layer], self._values[layer]

    def _reserve(self, like_KTD: Tensor) -> Tensor:
        # A token's heads lie together: a token is one run of memory to write and to fetch.
        num_heads, _, size = like_KTD.shape
        shape = (self._num_blocks, self.block_size, num_heads, size)
        return torch.empty(shape, dtype=like_KTD.dtype, device=self._device)


@dataclass(frozen=True, slots=True)
class _Read:
    """Sequences with as many new tokens each, and what they see.

    Attributes:
        rows_BQ: Indices of the new tokens among those of the step.
        cells_BL: Indices among S of the tokens that are read.
        allowed: Boolean, broadcastable to (B, 1, G * Q, L); None: all that is read is seen.
    """

    rows_BQ: Tensor
    cells_BL: Tensor
    allowed: Tensor | None


class PagedStep:
    """One forward pass over a `PagedCache`; see `attention.Step`."""

    def __init__(self, cache: PagedCache, spans: Sequence[PagedSpan], device: torch.device) -> None:
        """Plan the writes, which are the same for every layer, and who reads with whom."""
        self._cache = cache
        self._device = device
        size = cache.block_size
        cells = [
            span.blocks[position // size] * size + position % size
            for span in spans
            for position in range(span.start, span.length)
        ]
        self._cells_T = torch.tensor(cells, device=device)
        self._batches = _split_by_length([span for span in spans if span.count == 1])
        self._batches += [[span] for span in spans if span.count > 1]
        self._reads: dict[tuple[int | None, int], list[_Read]] = {}

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, rules: Rules
    ) -> Tensor:
        """Cache the new keys and values, and return what each token sees, as (T, H, D)."""
        self._cache.windows[layer] = rules.window
        keys_NPKD, values_NPKD = self._cache.layer(layer, key_KTD, value_KTD)
        keys_SKD, values_SKD = keys_NPKD.flatten(0, 1), values_NPKD.flatten(0, 1)
        keys_SKD[self._cells_T] = key_KTD.transpose(0, 1)
        values_SKD[self._cells_T] = value_KTD.transpose(0, 1)
        num_heads, num_tokens, _ = query_HTD.shape
        out_THD = query_HTD.new_empty(num_tokens, num_heads, value_KTD.shape[-1])
        for read in self._reads_of(rules.window, num_heads // len(key_KTD)):
            query_BHQD = query_HTD[:, read.rows_BQ].transpose(0, 1)
            # The queries that share keys lie one after another: no key is read twice.
            query_BKQD = query_BHQD.reshape(len(query_BHQD), len(key_KTD), -1, query_HTD.shape[-1])
            seen_keys_BKLD = keys_SKD[read.cells_BL].transpose(1, 2)
            seen_values_BKLD = values_SKD[read.cells_BL].transpose(1, 2)
            out_BKQD = weigh(query_BKQD, seen_keys_BKLD, seen_values_BKLD, read.allowed, rules)
            out_BHQD = out_BKQD.reshape(*query_BHQD.shape[:3], -1)
            out_THD[read.rows_BQ] = out_BHQD.transpose(1, 2)
        return out_THD

    def _reads_of(self, window: int | None, num_groups: int) -> list[_Read]:
        """What is read with this window (tokens) and G, planned at the first layer that asks."""
        name = (window, num_groups)
        if name not in self._reads:
            self._reads[name] = [self._plan(batch, window, num_groups) for batch in self._batches]
        return self._reads[name]

    def _plan(self, batch: Sequence[PagedSpan], window: int | None, num_groups: int) -> _Read:
        count = batch[0].count
        starts = [span.start for span in batch]
        firsts = [0 if window is None else max(0, start + 1 - window) for start in starts]
        num_read = max(span.length - first for span, first in zip(batch, firsts, strict=True))
        starts_B1 = torch.tensor(starts, device=self._device)[:, None]
        positions_BL = torch.tensor(firsts, device=self._device)[:, None] + torch.arange(
            num_read, device=self._device
        )
        # A shorter sequence reads its own last token where a longer one reads on.
        held_BL = torch.minimum(positions_BL, starts_B1 + count - 1)
        blocks_BL = self._blocks_of(batch).gather(1, held_BL // self._cache.block_size)
        cells_BL = blocks_BL * self._cache.block_size + held_BL % self._cache.block_size
        queries_Q = torch.arange(count, device=self._device)
        offsets = torch.tensor([span.offset for span in batch], device=self._device)
        rows_BQ = offsets[:, None] + queries_Q
        allowed = None
        if count > 1 or len(set(map(_num_seen, batch, firsts))) > 1:
            seen_from_BQ1 = (starts_B1 + queries_Q)[..., None]
            allowed_BQL = positions_BL[:, None] <= seen_from_BQ1
            if window is not None:
                allowed_BQL &= positions_BL[:, None] > seen_from_BQ1 - window
            allowed = allowed_BQL[:, None]
            if count > 1:
                allowed = allowed.repeat(1, 1, num_groups, 1)
        return _Read(rows_BQ, cells_BL, allowed)

    def _blocks_of(self, batch: Sequence[PagedSpan]) -> Tensor:
        """The blocks of each, the shorter tables padded with what is not looked at."""
        width = max(len(span.blocks) for span in batch)
        rows = [[*span.blocks, *[0] * (width - len(span.blocks))] for span in batch]
        return torch.tensor(rows, device=self._device)


def _num_seen(span: PagedSpan, first: int) -> int:
    return span.length - first


def _split_by_length(singles: Sequence[PagedSpan]) -> list[list[PagedSpan]]:
    """Part decodes into those that are worth one read together."""
    batches: list[list[PagedSpan]] = []
    num_used = 0
    for span in sorted(singles, key=lambda span: span.length, reverse=True):
        longest = batches[-1][0].length if batches else 0
        num_read = longest * (len(batches[-1]) + 1) if batches else 0
        num_used += span.length
        if LEAST_SHARE * num_read <= num_used and 0 < num_read <= MOST_READ_TOKENS:
            batches[-1].append(span)
        else:
            batches.append([span])
            num_used = span.length
    return batches
