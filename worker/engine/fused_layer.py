"""Decoder layers of the usual kind in fewer operations, for our attention alone.

A layer of transformers' takes some sixty operations, most of them on few numbers; here it takes
about twenty. It computes what its layer does, with the layer's own weights, and leaves to it every
call that comes without our attention. Which layers it may stand for is a list of classes, because
their rotary embedding and the order of their norms cannot be seen from outside.

Shape suffixes (this file): T = tokens of a step; E = features of the residual stream; N = heads of
queries and keys, one after another; D = head size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.engine.attention import Rules, Step
from worker.engine.kernel_layer import KernelLayer
from worker.engine.kernel_linear import KernelLinear
from worker.engine.linear import CpuLinear, FusedPart, Int8Linear, PackedLinear

_LAYERS = frozenset(
    {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
)


def fuse(model: PreTrainedModel) -> int:
    """Let every layer that we know run fused, on a CPU.

    In fp32 the outputs are the layers' own to the last bit; else they are rounded less often.

    Returns:
        How many layers do.
    """
    if model.device.type != "cpu":
        return 0
    layers = [module for module in model.modules() if type(module).__name__ in _LAYERS]
    rotation = _Rotation()
    for layer in layers:
        layer.forward = _FusedForward(layer, rotation)
    return len(layers)


class _Norm:
    """A layer's RMS norm as one operation."""

    def __init__(self, norm: Any) -> None:
        self._weight, self._eps = norm.weight.detach(), norm.variance_epsilon
        self._shape = tuple(norm.weight.shape)

    def __call__(self, hidden_states: Tensor) -> Tensor:
        return torch.rms_norm(hidden_states, self._shape, self._weight, self._eps)


class _Rotation:
    """The angles of a step in the form that the layers want, made once a step."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._cos_T1D = self._sin_T1D = torch.empty(0)

    def angles(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines, (T, 1, D), of transformers' (1, T, D)."""
        if self._source is not cos:
            sin_T1D = sin[0][:, None].clone()
            sin_T1D[..., : sin.shape[-1] // 2].neg_()
            self._source, self._cos_T1D, self._sin_T1D = cos, cos[0][:, None], sin_T1D
        return self._cos_T1D, self._sin_T1D


class _FusedForward:
    """Stands for the `forward` of one layer."""

    def __init__(self, layer: Any, rotation: _Rotation) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._usual: Any = type(layer).forward.__get__(layer)
        self._rotation = rotation
        self._norm_in = _Norm(layer.input_layernorm)
        self._norm_mlp = _Norm(layer.post_attention_layernorm)
        self._qkv = _join([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = _join([attention.o_proj])
        self._gate_up = _both(mlp.gate_proj, mlp.up_proj)
        self._down = _join([mlp.down_proj])
        self._activation = mlp.act_fn
        self._layer: int = attention.layer_idx
        self._head_dim: int = attention.head_dim
        config = attention.config
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = config.num_key_value_heads
        self._head_counts = [self._num_heads, self._num_kv_heads, self._num_kv_heads]
        self._head_norm = _head_norm(attention, self._num_heads, self._num_kv_heads)
        # Mistral's layers all take the configuration's; those of the others have one or none.
        holder = config if type(layer).__name__.startswith("Mistral") else attention
        self._rules = Rules(attention.scaling, getattr(holder, "sliding_window", None))
        gate_up = _join([mlp.gate_proj, mlp.up_proj])
        self._kernels = KernelLayer.of(layer, self._qkv, self._out, gate_up, self._down)

    def __call__(self, hidden_states: Tensor, *others: Any, **named: Any) -> Tensor:
        step: Step | None = named.get("baton")
        if step is None:
            usual: Tensor = self._usual(hidden_states, *others, **named)
            return usual
        stream_TE = hidden_states[0]
        if self._kernels is not None:
            return self._by_kernels(self._kernels, stream_TE, step, named["position_embeddings"])
        seen_TE = self._attend(self._norm_in(stream_TE), step, named["position_embeddings"])
        stream_TE = self._out.plus(seen_TE, stream_TE)
        gate, up = self._gate_up(self._norm_mlp(stream_TE))
        return self._down.plus(self._activation(gate) * up, stream_TE)[None]

    def _by_kernels(
        self,
        kernels: KernelLayer,
        stream_TE: Tensor,
        step: Step,
        embeddings: tuple[Tensor, Tensor],
    ) -> Tensor:
        all_NTD = kernels.begin(stream_TE, embeddings).transpose(0, 1)
        query_HTD, key_KTD, value_KTD = all_NTD.split_with_sizes(self._head_counts)
        seen_THD = step.attend(self._layer, query_HTD, key_KTD, value_KTD, self._rules)
        return kernels.end(seen_THD, stream_TE)[None]

    def _attend(self, normed_TE: Tensor, step: Step, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        num_tokens, num_both = len(normed_TE), self._num_heads + self._num_kv_heads
        all_TND = self._qkv(normed_TE).view(num_tokens, -1, self._head_dim)
        both_TND, value_TKD = all_TND[:, :num_both], all_TND[:, num_both:]
        if self._head_norm is not None:
            both_TND = self._head_norm(both_TND)
        cos_T1D, sin_T1D = self._rotation.angles(*embeddings)
        turned_TND = both_TND.roll(self._head_dim // 2, -1)
        both_NTD = (both_TND * cos_T1D).add_(turned_TND * sin_T1D).transpose(0, 1)
        query_HTD, key_KTD = both_NTD[: self._num_heads], both_NTD[self._num_heads :]
        seen = step.attend(self._layer, query_HTD, key_KTD, value_TKD.transpose(0, 1), self._rules)
        return seen.flatten(1)


class _HeadNorm:
    """The norms of queries and keys, which have one size, in two operations."""

    def __init__(self, norm_query: Any, norm_key: Any, num_heads: int, num_kv_heads: int) -> None:
        weights = [norm_query.weight.detach()] * num_heads + [
            norm_key.weight.detach()
        ] * num_kv_heads
        self._weight_ND = torch.stack(weights)
        self._shape = (self._weight_ND.shape[-1],)
        self._eps = norm_query.variance_epsilon

    def __call__(self, both_TND: Tensor) -> Tensor:
        return torch.rms_norm(both_TND, self._shape, None, self._eps) * self._weight_ND


class _Joined:
    """Layers as they are, called one after another."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        self._linears = linears

    def __call__(self, input_TI: Tensor) -> Tensor:
        return torch.cat([linear(input_TI) for linear in self._linears], dim=-1)

    def plus(self, input_TI: Tensor, other_TO: Tensor) -> Tensor:
        output_TO: Tensor = self._linears[0](input_TI)
        return output_TO.add_(other_TO)


def _join(linears: Sequence[Any]) -> CpuLinear:
    """One layer for all: that which they are parts of, where there is one."""
    first = linears[0]
    if isinstance(first, FusedPart):
        return first.fused.linear
    if isinstance(first, PackedLinear | Int8Linear | KernelLinear):
        return first
    return _Joined(linears)


def _both(gate: Any, up: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The outputs of two layers, apart: an activation is not to the bit the same over a part."""
    if isinstance(gate, FusedPart):
        linear = gate.fused.linear
        return lambda input_TI: linear(input_TI).chunk(2, dim=-1)
    return lambda input_TI: (gate(input_TI), up(input_TI))


def _head_norm(attention: Any, num_heads: int, num_kv_heads: int) -> _HeadNorm | None:
    if not hasattr(attention, "q_norm"):
        return None
    return _HeadNorm(attention.q_norm, attention.k_norm, num_heads, num_kv_heads)
