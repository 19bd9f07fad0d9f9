"""Copy, put together and take apart the caches that transformers keeps for models with a state.

A sequence has one cache object of its own, of one row. Where we know what its layers hold, the
caches of several sequences can be put together, run, and taken apart again; any other object is
only ever copied whole. Knows nothing about models that keep plain keys and values alone.

Shape suffixes (this file): B = rows, one per sequence; H = key-value heads; L = columns, the
longest row's length; D = head size.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

# Keys and values grow by concatenation, which leaves the old tensors alone; states are written to.
_KNOWN_LAYERS = (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
_STATES = ("conv_states", "recurrent_states")
_BOOKS = (
    *_STATES,
    "is_conv_states_initialized",
    "is_recurrent_states_initialized",
    "has_previous_state",
    "conv_kernel_size",
)


def can_join(cache: Any) -> bool:
    """Return whether all that the cache holds is known, so that others can be put beside it."""
    return type(cache) is DynamicCache and all(type(lay) in _KNOWN_LAYERS for lay in cache.layers)


def fork(cache: Any) -> Any:
    """Return a copy that a forward may write to without a trace in the original."""
    if not can_join(cache):
        return copy.deepcopy(cache)
    layers = [_shell(layer) for layer in cache.layers]
    for layer in layers:
        for states in _states_of(layer):
            states.update({i: None if s is None else s.clone() for i, s in states.items()})
    return _with_layers(cache, layers)


def join(caches: Sequence[Any]) -> Any:
    """Return one cache with a row for each of these, keys and values padded on the left.

    Args:
        caches: Caches of one row, of one model, for which `can_join` holds; left as they are.
    """
    columns = zip(*(cache.layers for cache in caches), strict=True)
    return _with_layers(caches[0], [_join_layer(layers) for layers in columns])


def split(cache: Any, lengths: Sequence[int]) -> list[Any]:
    """Take apart what `join` gave, after a forward.

    Args:
        cache: A cache with one row for each length.
        lengths: Tokens of each row, those of the forward counted.

    Returns:
        A cache of one row for each, on the same memory.
    """
    return [
        _with_layers(cache, [_row_of(layer, row, length) for layer in cache.layers])
        for row, length in enumerate(lengths)
    ]


def num_bytes(cache: Any) -> int:
    """Return the memory of all tensors that a cache holds, whatever its class."""
    return sum(tensor.nbytes for tensor in _tensors(cache))


def check_row(cache: Any, length: int) -> None:
    """Assert that a cache whose layers are known has one row of this many tokens."""
    if not can_join(cache):
        return
    for layer in cache.layers:
        assert not _has_keys(layer) or layer.get_seq_length() == length, (layer, length)
        tensors = [state for states in _states_of(layer) for state in states.values()]
        tensors += [layer.keys] if _has_keys(layer) else []
        assert all(tensor is None or len(tensor) == 1 for tensor in tensors), layer


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for part in thing.values():
            yield from _tensors(part)
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _tensors(part)
    elif type(thing).__module__.startswith("transformers."):
        yield from _tensors(vars(thing))


def _with_layers(cache: Any, layers: list[Any]) -> Any:
    other = copy.copy(cache)
    other.layers = layers
    return other


def _shell(layer: Any) -> Any:
    """Copy a layer with its books, but not its tensors."""
    other = copy.copy(layer)
    for name in _BOOKS:
        if hasattr(other, name):
            setattr(other, name, dict(getattr(other, name)))
    return other


def _states_of(layer: Any) -> list[dict[int, Tensor | None]]:
    return [getattr(layer, name) for name in _STATES if hasattr(layer, name)]


def _has_keys(layer: Any) -> bool:
    return isinstance(layer, DynamicLayer) and layer.keys is not None


def _join_layer(layers: Sequence[Any]) -> Any:
    joined = _shell(layers[0])
    for name in _STATES:
        for index, first in getattr(joined, name, {}).items():
            if first is not None:
                rows = [getattr(layer, name)[index] for layer in layers]
                getattr(joined, name)[index] = torch.cat(rows)
    if _has_keys(joined):
        # Padded to one right end, two tokens of a row are as far apart as before: a window holds.
        width = max(layer.keys.shape[-2] for layer in layers)
        joined.keys = torch.cat([_padded(layer.keys, width) for layer in layers])
        joined.values = torch.cat([_padded(layer.values, width) for layer in layers])
        if isinstance(joined, DynamicSlidingWindowLayer):
            joined.cumulative_length = max(layer.cumulative_length for layer in layers)
    return joined


def _padded(tensor_BHLD: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(tensor_BHLD, (0, 0, width - tensor_BHLD.shape[-2], 0))


def _row_of(layer: Any, row: int, length: int) -> Any:
    alone = _shell(layer)
    for states in _states_of(alone):
        states.update({i: None if s is None else s[row : row + 1] for i, s in states.items()})
    if _has_keys(alone):
        # A layer that slides a window has fewer columns than a long row has tokens.
        first = max(0, layer.keys.shape[-2] - length)
        alone.keys = layer.keys[row : row + 1, :, first:]
        alone.values = layer.values[row : row + 1, :, first:]
        if isinstance(alone, DynamicSlidingWindowLayer):
            alone.cumulative_length = length
    return alone


class ModuleStates:
    """Carries states between a model that keeps them in its modules and a sequence's cache.

    RecurrentGemma alone does so in transformers 5: it has one state, that of whatever ran last.
    """

    def __init__(self, model: Any) -> None:
        """Find the modules; a model without them is left alone."""
        layers = getattr(getattr(model, "model", None), "layers", ())
        self._blocks: list[tuple[int, Any]] = [
            (index, layer.temporal_block)
            for index, layer in enumerate(layers)
            if hasattr(getattr(layer, "temporal_block", None), "conv1d_state")
        ]

    def load(self, cache: Any) -> None:
        """Put a cache's states into the model, or none where it is new."""
        for index, block in self._blocks:
            layer = cache.layers[index]
            block.conv1d_state = layer.conv_states[0]
            block.rg_lru.recurrent_states = layer.recurrent_states[0]

    def save(self, cache: Any) -> None:
        """Take the states that a forward has left into the cache."""
        for index, block in self._blocks:
            layer = cache.layers[index]
            layer.conv_states[0] = block.conv1d_state
            layer.recurrent_states[0] = block.rg_lru.recurrent_states
