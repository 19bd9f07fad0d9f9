"""Linear layers laid out once for the CPU's matrix units, those that read the same input as one.

At decode a step reads every weight once, so its time is that of reading them: the layout decides
how close this comes to what memory can do, and one wide layer reads better than three narrow ones.

Shape suffixes (this file): T = tokens; I = input features; O = output features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ROWS_HINT = 8
"""Rows that the layout is made for: between one request and a batch of them."""

# Layers of one block that read the same input, in the order in which the block calls them.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def pack(model: PreTrainedModel) -> int:
    """Replace the model's linear layers by packed ones, in place, and free what they had.

    Only bf16 on a CPU with bf16 matrix instructions gains; anything else is left as it is.

    Returns:
        How many layers were replaced.
    """
    if model.dtype is not torch.bfloat16 or model.device.type != "cpu" or not _has_bf16_units():
        return 0
    num_packed = 0
    for block in list(model.modules()):
        for names in _SIBLINGS:
            linears = [getattr(block, name, None) for name in names]
            if all(type(linear) is nn.Linear for linear in linears):
                for name, part in zip(names, _fuse(linears), strict=True):
                    setattr(block, name, part)
                num_packed += len(names)
        for name, child in list(block.named_children()):
            if type(child) is nn.Linear:
                setattr(block, name, PackedLinear(child.weight, child.bias))
                num_packed += 1
    return num_packed


class PackedLinear(nn.Module):
    """A linear layer whose weight oneDNN has laid out."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Copy the weight into its new layout."""
        super().__init__()
        reorder: Any = torch.ops.mkldnn._reorder_linear_weight
        self._weight = reorder(weight_OI.detach().contiguous(), ROWS_HINT)
        self._bias = None if bias_O is None else bias_O.detach()

    def forward(self, input_TI: Tensor) -> Tensor:
        """Return input @ weight.T + bias; any leading dimensions."""
        linear: Any = torch.ops.mkldnn._linear_pointwise
        output: Tensor = linear(input_TI, self._weight, self._bias, "none", [], "")
        return output


class _Fused(nn.Module):
    """Linear layers that read one input, as one."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self._sizes = [linear.out_features for linear in linears]
        biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
        assert len(biases) in (0, len(linears))
        weight = torch.cat([linear.weight.detach() for linear in linears])
        self._linear = PackedLinear(weight, torch.cat(biases) if biases else None)
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def output(self, index: int, input_TI: Tensor) -> Tensor:
        """The output of one of the layers; the first that is asked for computes all."""
        if self._input is not input_TI:
            self._outputs = self._linear(input_TI).split(self._sizes, dim=-1)
            self._input = input_TI
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._input, self._outputs = None, ()  # not kept until the next step
        return output


class _Part(nn.Module):
    """Stands where one of the fused layers was."""

    def __init__(self, fused: _Fused, index: int) -> None:
        super().__init__()
        self._fused = fused
        self._index = index

    def forward(self, input_TI: Tensor) -> Tensor:
        """Return this layer's share."""
        return self._fused.output(self._index, input_TI)


def _fuse(linears: Sequence[Any]) -> list[nn.Module]:
    if len({linear.bias is None for linear in linears}) > 1:
        return [PackedLinear(linear.weight, linear.bias) for linear in linears]
    fused = _Fused(linears)
    return [_Part(fused, index) for index in range(len(linears))]


def _has_bf16_units() -> bool:
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    has_mkldnn: Any = torch.backends.mkldnn.is_available
    return bool(has_mkldnn() and supported())
