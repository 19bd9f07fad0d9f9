"""Kernels of our own for a CPU, compiled at first use from `kernels.cpp`.

Every call runs on as many threads as torch does, without the GIL. A row's numbers are the same
whatever rows come with it. Knows nothing of models; where there are no kernels, torch does all.

Shape suffixes (this file): T = tokens of a step; B = sequences with one new token each; H = query
heads; K = key-value heads; S = slots; C = tokens of a context; D = head size; I = input features;
O = output features.
"""

import ctypes
import functools
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine import large_pages
from worker.engine.attention import Rules
from worker.engine.kernel_build import KernelsUnavailable, build, openmp_runtimes

ATTENTION_DTYPES = frozenset({torch.float32, torch.bfloat16})

MOST_HEAD_SIZE = 1024
"""That `Kernels.layer_begin` takes."""

_PANEL_OUTPUTS = 32  # a packed weight comes in panels of these; the last is filled up with zeros

_HAS_BF16, _HAS_INT8 = 1, 2


class _Attention(ctypes.Structure):
    """As in `kernels.cpp`."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "keys", "values", "out")),
        *((name, c_void_p) for name in ("slots", "rows", "lengths", "sinks")),
        *((name, c_int64) for name in ("query_head", "query_token", "key_head", "key_token")),
        *((name, c_int64) for name in ("value_head", "value_token", "slot_keys", "head_keys")),
        *((name, c_int64) for name in ("slot_values", "head_values", "num_sequences")),
        *((name, c_int64) for name in ("num_heads", "num_kv_heads", "size", "value_size")),
        ("window", c_int64),
        *((name, c_float) for name in ("scaling", "softcap")),
        *((name, c_int32) for name in ("is_bf16", "threads")),
    )


class Linear(ctypes.Structure):
    """As in `kernels.cpp`; addresses only, so whoever makes one keeps the tensors."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "scale", "bias")),
        *((name, c_int64) for name in ("num_in", "num_out")),
    )


class Layer(ctypes.Structure):
    """As in `kernels.cpp`; addresses only, so whoever makes one keeps the tensors."""

    _fields_ = (
        *((name, Linear) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("norm_in", "norm_mlp", "norm_query", "norm_key")),
        *((name, c_int64) for name in ("num_heads", "num_kv_heads", "head_size")),
        *((name, c_float) for name in ("eps", "head_eps")),
    )


class Kernels:
    """The compiled library.

    Attributes:
        has_bf16: Whether this processor multiplies bf16, for `pack` and all that takes a `Linear`.
        has_int8: Whether it does int8.
    """

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            KernelsUnavailable: It cannot be loaded, or brings an OpenMP runtime along.
        """
        runtimes = openmp_runtimes()
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelsUnavailable(f"{path} cannot be loaded: {error}") from error
        if added := openmp_runtimes() - runtimes:
            raise KernelsUnavailable(f"{path} brings an OpenMP runtime along: {added.pop()}")
        features = self._library.baton_features()
        self.has_bf16, self.has_int8 = bool(features & _HAS_BF16), bool(features & _HAS_INT8)
        self._attend = self._function("baton_attend", 1, 0)
        self._pack_bf16 = self._function("baton_pack_bf16", 2, 2)
        self._pack_int8 = self._function("baton_pack_int8", 2, 2)
        self._linear = self._function("baton_linear", 4, 1)
        self._layer_begin = self._function("baton_layer_begin", 5, 1)
        self._layer_end = self._function("baton_layer_end", 6, 1)

    def _function(self, name: str, num_pointers: int, num_sizes: int) -> Any:
        function = getattr(self._library, name)
        function.restype = None
        threads = [c_int32] if num_sizes else []
        function.argtypes = [c_void_p] * num_pointers + [c_int64] * num_sizes + threads
        return function

    def pack(self, weight_OI: Tensor) -> Tensor:
        """Lay a weight out as `linear` reads it.

        Args:
            weight_OI: bf16 or int8, with an even I.

        Returns:
            A tensor that only the kernels can read, on large pages where the system has them.
        """
        num_out, num_in = weight_OI.shape
        assert num_in % 2 == 0, "inputs are read in pairs"
        function = self._pack_int8 if weight_OI.dtype is torch.int8 else self._pack_bf16
        num_panels = -(-num_out // _PANEL_OUTPUTS)
        packed = weight_OI.new_empty(num_panels * _PANEL_OUTPUTS * num_in)
        large_pages.advise(packed.data_ptr(), packed.nbytes)
        weight_OI = weight_OI.contiguous()
        function(weight_OI.data_ptr(), packed.data_ptr(), num_in, num_out, torch.get_num_threads())
        return packed

    def linear(self, linear: Linear, input_TI: Tensor, plus_TO: Tensor | None) -> Tensor:
        """Return input @ weight.T + bias + plus, in bf16, summed in fp32 and rounded once.

        Args:
            linear: Its weight is packed.
            input_TI: bf16, contiguous. For an int8 weight it is rounded to 16 bits a number.
            plus_TO: bf16, contiguous.
        """
        output_TO = input_TI.new_empty(len(input_TI), linear.num_out)
        self._linear(
            ctypes.addressof(linear),
            input_TI.data_ptr(),
            None if plus_TO is None else plus_TO.data_ptr(),
            output_TO.data_ptr(),
            len(input_TI),
            torch.get_num_threads(),
        )
        return output_TO

    def layer_begin(
        self, layer: Layer, stream_TE: Tensor, cos_TD: Tensor, sin_TD: Tensor
    ) -> Tensor:
        """Return queries, keys and values of a layer, (T, H + K + K, D), normed and turned.

        Args:
            layer: Of the Llama kind.
            stream_TE: bf16, contiguous.
            cos_TD: bf16, contiguous, of the tokens' positions.
            sin_TD: Likewise.
        """
        num_tokens, size = cos_TD.shape
        qkv_TND = stream_TE.new_empty(num_tokens, layer.qkv.num_out // size, size)
        self._layer_begin(
            ctypes.addressof(layer),
            stream_TE.data_ptr(),
            cos_TD.data_ptr(),
            sin_TD.data_ptr(),
            qkv_TND.data_ptr(),
            num_tokens,
            torch.get_num_threads(),
        )
        return qkv_TND

    def layer_end(self, layer: Layer, seen_THD: Tensor, stream_TE: Tensor) -> Tensor:
        """Return the stream after a layer: what attention saw, and the MLP, added to it.

        Args:
            layer: Of the Llama kind, with SiLU.
            seen_THD: bf16, contiguous.
            stream_TE: bf16, contiguous; the layer's input.
        """
        num_tokens = len(stream_TE)
        between_TE, output_TE = torch.empty_like(stream_TE), torch.empty_like(stream_TE)
        gate_up = stream_TE.new_empty(num_tokens, layer.gate_up.num_out)
        self._layer_end(
            ctypes.addressof(layer),
            seen_THD.data_ptr(),
            stream_TE.data_ptr(),
            between_TE.data_ptr(),
            gate_up.data_ptr(),
            output_TE.data_ptr(),
            num_tokens,
            torch.get_num_threads(),
        )
        return output_TE

    def attend(self, arguments: _Attention) -> None:
        """Run what `DecodeAttention` has put together."""
        arguments.threads = torch.get_num_threads()
        self._attend(ctypes.addressof(arguments))


class DecodeAttention:
    """Attention of one step's sequences with one new token each, of any lengths, all at once.

    Reads the cache where it lies, and nothing beyond a sequence's length, so that what others left
    there cannot leak.
    """

    def __init__(
        self, kernels: Kernels, slots: Sequence[int], rows: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Keep what is the same in every layer.

        Args:
            kernels: Of this process.
            slots: Of each sequence.
            rows: Of its token in the step.
            lengths: With that token.
        """
        self._kernels = kernels
        self._numbers = torch.tensor([slots, rows, lengths])
        self._arguments = _Attention(num_sequences=len(slots))
        self._arguments.slots, self._arguments.rows, self._arguments.lengths = (
            row.data_ptr() for row in self._numbers
        )

    def __call__(
        self,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        keys_SKCD: Tensor,
        values_SKCD: Tensor,
        rules: Rules,
        out_THD: Tensor,
    ) -> None:
        """Cache the new keys and values, and write what each sequence's token sees.

        Args:
            query_HTD: Of a dtype in `ATTENTION_DTYPES`, like all others; heads are contiguous.
            key_KTD: Of all tokens of the step.
            value_KTD: Likewise; its heads may have another size.
            keys_SKCD: The cache; tokens are contiguous.
            values_SKCD: Likewise.
            rules: Of the layer.
            out_THD: Contiguous; the rows of these sequences are written to.
        """
        query_HTD, key_KTD, value_KTD = map(_with_whole_heads, (query_HTD, key_KTD, value_KTD))
        sinks_H = None if rules.sinks_H is None else rules.sinks_H.float().contiguous()
        to = self._arguments
        to.query, to.key, to.value = query_HTD.data_ptr(), key_KTD.data_ptr(), value_KTD.data_ptr()
        to.keys, to.values, to.out = (
            keys_SKCD.data_ptr(),
            values_SKCD.data_ptr(),
            out_THD.data_ptr(),
        )
        to.sinks = None if sinks_H is None else sinks_H.data_ptr()
        to.query_head, to.query_token, _ = query_HTD.stride()
        to.key_head, to.key_token, _ = key_KTD.stride()
        to.value_head, to.value_token, _ = value_KTD.stride()
        to.slot_keys, to.head_keys, *_ = keys_SKCD.stride()
        to.slot_values, to.head_values, *_ = values_SKCD.stride()
        to.num_heads, _, to.size = query_HTD.shape
        to.num_kv_heads, _, to.value_size = value_KTD.shape
        to.window, to.scaling, to.softcap = rules.window or 0, rules.scaling, rules.softcap or 0.0
        to.is_bf16 = query_HTD.dtype is torch.bfloat16
        self._kernels.attend(to)


def _with_whole_heads(heads: Tensor) -> Tensor:
    return heads if heads.stride(-1) == 1 else heads.contiguous()


@functools.cache
def load() -> Kernels:
    """Return this process's kernels, compiled for its processor.

    Raises:
        KernelsUnavailable: There are none; the message is one line.
    """
    return Kernels(build())
