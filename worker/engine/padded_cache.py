"""The keys and values of several sequences, padded on the left to one length.

A value: operations return new caches and never modify their input, so a step
that fails half-way leaves what was before intact. Columns in which every row is
padding are trimmed whenever rows are taken or put together.

Shape suffixes (this file): B = rows, one per sequence; H = key-value heads;
L = columns, the longest row's length; D = head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True, slots=True)
class PaddedCache:
    """Keys and values of B sequences, one pair of tensors per layer.

    Attributes:
        lengths: Cached tokens of each row; row b is padding before column L - lengths[b].
        keys: One (B, H, L, D) tensor per layer; none while nothing is cached.
        values: As `keys`; its D may be another.
    """

    lengths: tuple[int, ...]
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()

    @property
    def num_columns(self) -> int:
        """L, the length of the longest row."""
        return max(self.lengths, default=0)

    @property
    def num_bytes(self) -> int:
        """Memory of all layers, padding included."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def take(self, rows: Sequence[int]) -> "PaddedCache":
        """Return a cache of these rows alone, in this order."""
        lengths = tuple(self.lengths[row] for row in rows)
        width = max(lengths, default=0)

        def select(tensor: Tensor) -> Tensor:
            index = torch.tensor(rows, device=tensor.device)
            return tensor[:, :, tensor.shape[2] - width :].index_select(0, index)

        if not rows:
            return PaddedCache(lengths=())
        return PaddedCache(lengths, tuple(map(select, self.keys)), tuple(map(select, self.values)))

    def to_dynamic(self) -> DynamicCache:
        """Return a transformers cache on the same tensors, which updating does not modify.

        Every layer is a plain growing one, also where the model slides a window:
        the mask says what a token sees, and rows of different lengths can share it.
        """
        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        return cache

    def grown(self, cache: DynamicCache, num_tokens: int) -> "PaddedCache":
        """Return what `to_dynamic` gave, after a forward of this many tokens a row."""
        return PaddedCache(
            tuple(length + num_tokens for length in self.lengths),
            tuple(keys for keys, _, _ in cache),
            tuple(values for _, values, _ in cache),
        )

    def check_integrity(self) -> None:
        """Assert that the tensors have the shape that the lengths ask for."""
        assert len(self.keys) == len(self.values)
        assert self.keys or not self.num_columns
        for tensor in (*self.keys, *self.values):
            assert tensor.shape[0] == len(self.lengths), (tensor.shape, self.lengths)
            assert tensor.shape[2] == self.num_columns, (tensor.shape, self.lengths)


def merge(caches: Sequence[PaddedCache]) -> PaddedCache:
    """Put caches together, rows in order, the shorter ones padded on the left."""
    if len(caches) == 1:
        return caches[0]
    filled = [cache for cache in caches if cache.lengths]
    width = max(cache.num_columns for cache in filled)

    def join(layer: tuple[Tensor, ...]) -> Tensor:
        padded = (
            torch.nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0)) for tensor in layer
        )
        return torch.cat(tuple(padded))

    return PaddedCache(
        tuple(length for cache in filled for length in cache.lengths),
        tuple(map(join, zip(*(cache.keys for cache in filled), strict=True))),
        tuple(map(join, zip(*(cache.values for cache in filled), strict=True))),
    )
