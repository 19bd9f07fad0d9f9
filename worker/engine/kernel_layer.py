"""A decoder layer of the Llama kind in three calls, of which this makes the first and the last.

Between them lies attention, which belongs to the step.

Shape suffixes (this file): T = tokens of a step; E = features of the residual stream; N = heads of
queries, keys and values, one after another; H = query heads; D = head size.
"""

from typing import Any, Self

import torch
from torch import Tensor

from worker.engine.kernel_linear import KernelLinear
from worker.engine.kernels import MOST_HEAD_SIZE, Layer

_SILU = frozenset({"SiLU", "SiLUActivation"})


class KernelLayer:
    """What a layer does before and after its attention."""

    def __init__(
        self,
        layer: Any,
        qkv: KernelLinear,
        out: KernelLinear,
        gate_up: KernelLinear,
        down: KernelLinear,
    ) -> None:
        """Collect the addresses that the kernels want.

        Args:
            layer: transformers' own, in bf16.
            qkv: Its query, key and value projections as one.
            out: Of its attention.
            gate_up: The first two projections of its MLP as one.
            down: The last.
        """
        attention, config = layer.self_attn, layer.self_attn.config
        self._kernels = qkv.kernels
        self._linears = (qkv, out, gate_up, down)
        head_norm = getattr(attention, "q_norm", None)
        norms = [layer.input_layernorm, layer.post_attention_layernorm]
        norms += [] if head_norm is None else [attention.q_norm, attention.k_norm]
        self._norms = [norm.weight.detach().float().contiguous() for norm in norms]
        addresses = [weight.data_ptr() for weight in self._norms]
        self._layer = Layer(
            *(linear.linear for linear in self._linears),
            *(addresses if head_norm is not None else [*addresses, None, None]),
            config.num_attention_heads,
            config.num_key_value_heads,
            attention.head_dim,
            layer.input_layernorm.variance_epsilon,
            0.0 if head_norm is None else head_norm.variance_epsilon,
        )

    @classmethod
    def of(cls, layer: Any, *linears: Any) -> Self | None:
        """Return it, or None for a layer that the kernels do not compute."""
        if not all(isinstance(linear, KernelLinear) for linear in linears):
            return None
        size, activation = layer.self_attn.head_dim, type(layer.mlp.act_fn).__name__
        if activation not in _SILU or size % 2 or size > MOST_HEAD_SIZE:
            return None
        return cls(layer, *linears)

    def begin(self, stream_TE: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """Return queries, keys and values, (T, N, D), normed and turned.

        Args:
            stream_TE: The layer's input, in bf16.
            embeddings: Cosines and sines of the positions, each (1, T, D).
        """
        cos_TD, sin_TD = (angles[0].to(torch.bfloat16).contiguous() for angles in embeddings)
        return self._kernels.layer_begin(self._layer, stream_TE.contiguous(), cos_TD, sin_TD)

    def end(self, seen_THD: Tensor, stream_TE: Tensor) -> Tensor:
        """Return the layer's output, (T, E), from its input and what attention saw."""
        return self._kernels.layer_end(self._layer, seen_THD.contiguous(), stream_TE.contiguous())
