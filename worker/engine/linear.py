"""Linear layers whose weights are laid out for a CPU, in bf16 or in int8.

At decode a step reads every weight once, so its time is that of reading them: the layout decides
how close this comes to what memory can do, and int8 halves what has to be read.

Shape suffixes (this file): T = tokens; I = input features; O = output features; V = vocabulary.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worker.engine import large_pages

ROWS_HINT = 8
"""Rows that the bf16 layout is made for: between one request and a batch of them."""

_INT8_MAX = 127.0

_FBGEMM = "fbgemm"

_SMALLEST = 1e-30  # instead of zero, where it is divided by

# An input is two numbers of 8 bits, of 7 where the processor adds their products in 16 bits.
_INPUT_MAX = 127.0 if torch.cpu._is_vnni_supported() else 63.0
_INPUT_ZERO = 128 if torch.cpu._is_vnni_supported() else 64


class CpuLinear(Protocol):
    """What stands where an `nn.Linear` was."""

    def __call__(self, input_TI: Tensor) -> Tensor:
        """Return input @ weight.T + bias, (..., O)."""
        ...

    def plus(self, input_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return input @ weight.T + bias + other."""
        ...


LinearKind = Callable[[Tensor, Tensor | None], CpuLinear]
"""Makes a layer of a weight (O, I) and a bias (O,) or None."""


class PackedLinear(nn.Module):
    """A bf16 linear layer whose weight oneDNN has laid out."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Copy the weight into its new layout."""
        super().__init__()
        reorder: Any = torch.ops.mkldnn._reorder_linear_weight
        self._weight = reorder(weight_OI.detach().contiguous(), ROWS_HINT)
        num_bytes = weight_OI.numel() * weight_OI.element_size()
        large_pages.advise(torch.ops.mkldnn.data_ptr(self._weight), num_bytes)
        self._bias = None if bias_O is None else bias_O.detach()
        self._linear: Any = torch.ops.mkldnn._linear_pointwise.default
        self._linear_plus: Any = torch.ops.mkldnn._linear_pointwise.binary

    def forward(self, input_TI: Tensor) -> Tensor:
        """Return input @ weight.T + bias; any leading dimensions."""
        output: Tensor = self._linear(input_TI, self._weight, self._bias, "none", [], "")
        return output

    def plus(self, input_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return input @ weight.T + bias + other, rounded once."""
        output: Tensor = self._linear_plus(input_TI, other_TO, self._weight, self._bias, "add")
        return output


class Int8Linear(nn.Module):
    """A linear layer with an int8 weight, one scale for each output.

    The kernel multiplies bytes. Each row of the input is split into two of them, what fits into
    steps of its largest number and what that leaves, which keeps more of it than bf16 has: only
    the weight is rounded, and no row depends on those beside it. Both halves are rows of one
    product, so the weight is read once.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Round the weight."""
        super().__init__()
        weight, scale = quantize(weight_OI.detach())
        self._bias = None if bias_O is None else bias_O.detach().float()
        has_fbgemm = _FBGEMM in torch.backends.quantized.supported_engines
        self._packed: Any = _prepack(weight, scale) if has_fbgemm else None
        self._unpacked = None if has_fbgemm else (weight, scale)
        self._product: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def forward(self, input_TI: Tensor) -> Tensor:
        """Return input @ weight.T + bias; any leading dimensions."""
        rows_TI = input_TI.reshape(-1, input_TI.shape[-1])
        if self._unpacked is None:
            output_TO = self._by_bytes(rows_TI)
        else:
            output_TO = torch._weight_int8pack_mm(rows_TI, *self._unpacked)
        if self._bias is not None:
            output_TO = output_TO + self._bias
        return output_TO.to(input_TI.dtype).view(*input_TI.shape[:-1], -1)

    def plus(self, input_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return input @ weight.T + bias + other."""
        output_TO: Tensor = self(input_TI)
        return output_TO.add_(other_TO)

    def _by_bytes(self, rows_TI: Tensor) -> Tensor:
        num_rows = len(rows_TI)
        exact_TI = rows_TI.float()
        # Not `vector_norm`, which takes ten times as long.
        largest_T1 = exact_TI.abs().amax(dim=-1, keepdim=True).clamp_(min=_SMALLEST)
        steps_TI = exact_TI * (_INPUT_MAX / largest_T1)
        halves = steps_TI.new_empty(2, *steps_TI.shape)
        torch.round(steps_TI, out=halves[0])
        torch.sub(steps_TI, halves[0], out=halves[1]).mul_(2 * _INPUT_MAX)
        both: Tensor = self._product(halves.flatten(0, 1), 1.0, _INPUT_ZERO, self._packed)
        output_TO = torch.add(both[:num_rows], both[num_rows:], alpha=0.5 / _INPUT_MAX)
        return output_TO.mul_(largest_T1 / _INPUT_MAX)


def _prepack(weight_OI: Tensor, scale_O: Tensor) -> Any:
    """Lay an int8 weight out for FBGEMM."""
    zeros_O = torch.zeros(len(scale_O), dtype=torch.int64)
    make: Any = torch._make_per_channel_quantized_tensor
    with warnings.catch_warnings():
        # There is no other way to these kernels yet; a release without them has no FBGEMM either.
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        quantized = make(weight_OI, scale_O.double(), zeros_O, 0)
    usual: Any = torch.backends.quantized
    engine = usual.engine
    usual.engine = _FBGEMM
    try:
        return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        usual.engine = engine


class Int8Embedding(nn.Module):
    """An embedding with an int8 weight, one scale for each token."""

    def __init__(self, weight_VI: Tensor) -> None:
        """Round the weight."""
        super().__init__()
        self._weight_VI, self._scale_V = quantize(weight_VI.detach())

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of these ids, in bf16."""
        return self._weight_VI[ids].to(torch.bfloat16) * self._scale_V[ids][..., None]


class FusedLinears(nn.Module):
    """Linear layers that read one input, as one: a wide layer reads better than narrow ones.

    Attributes:
        linear: The one.
        sizes: How many outputs each of them has.
    """

    def __init__(self, linears: Sequence[nn.Linear], kind: LinearKind) -> None:
        """Join the layers' weights, which have a bias all or none."""
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
        assert len(biases) in (0, len(linears))
        weight = torch.cat([linear.weight.detach() for linear in linears])
        self.linear: CpuLinear = kind(weight, torch.cat(biases) if biases else None)
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def output(self, index: int, input_TI: Tensor) -> Tensor:
        """The output of one of the layers; the first that is asked for computes all."""
        if self._input is not input_TI:
            self._outputs = torch.split(self.linear(input_TI), self.sizes, dim=-1)
            self._input = input_TI
        output = self._outputs[index]
        if index == len(self.sizes) - 1:
            self._input, self._outputs = None, ()  # not kept until the next step
        return output


class FusedPart(nn.Module):
    """Stands where one of the fused layers was."""

    def __init__(self, fused: FusedLinears, index: int) -> None:
        """Be one of them.

        Args:
            fused: All of them.
            index: Which one.
        """
        super().__init__()
        self.fused = fused
        self._index = index

    def forward(self, input_TI: Tensor) -> Tensor:
        """Return this layer's share."""
        return self.fused.output(self._index, input_TI)


def quantize(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to int8, symmetrically, each output with a scale of its own.

    Returns:
        int8 (O, I), and bf16 scales (O,): weight is about int8 * scale.
    """
    largest_O = weight_OI.abs().amax(dim=1).float()
    # Rounded to bf16 before it is divided by, and never down: no int8 overflows, and the scale's
    # own rounding is no error of the product.
    scale_O = (largest_O / _INT8_MAX).clamp(min=_SMALLEST)
    scale_O = torch.nextafter(scale_O.to(torch.bfloat16), torch.tensor(torch.inf).bfloat16())
    rounded = (weight_OI.float() / scale_O.float()[:, None]).round()
    return rounded.to(torch.int8).contiguous(), scale_O
