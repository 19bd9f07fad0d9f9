"""Linear layers that our own kernels compute, with bf16 or int8 weights.

At decode a step reads every weight once, so its time is that of reading them; the same layout
serves few rows and many.

Shape suffixes (this file): T = tokens; I = input features; O = output features.
"""

from typing import Self

from torch import Tensor, nn

from worker.engine.kernels import Kernels, Linear
from worker.engine.linear import quantize


class KernelLinear(nn.Module):
    """A linear layer with a packed weight, for bf16 inputs.

    Attributes:
        linear: Where its tensors are, for kernels that take several layers.
    """

    def __init__(
        self, kernels: Kernels, weight_OI: Tensor, scale_O: Tensor | None, bias_O: Tensor | None
    ) -> None:
        """Pack the weight.

        Args:
            kernels: Of this process.
            weight_OI: bf16, or int8; I is even.
            scale_O: Of each output of an int8 weight.
            bias_O: Any dtype.
        """
        super().__init__()
        self.kernels = kernels
        self._weight = kernels.pack(weight_OI.detach())
        self._scale_O = None if scale_O is None else scale_O.float().contiguous()
        self._bias_O = None if bias_O is None else bias_O.detach().float().contiguous()
        self.linear = Linear(
            weight=self._weight.data_ptr(),
            scale=None if self._scale_O is None else self._scale_O.data_ptr(),
            bias=None if self._bias_O is None else self._bias_O.data_ptr(),
            num_in=weight_OI.shape[1],
            num_out=weight_OI.shape[0],
        )

    @classmethod
    def in_bf16(cls, kernels: Kernels, weight_OI: Tensor, bias_O: Tensor | None) -> Self:
        """Keep the weight's numbers."""
        return cls(kernels, weight_OI, None, bias_O)

    @classmethod
    def in_int8(cls, kernels: Kernels, weight_OI: Tensor, bias_O: Tensor | None) -> Self:
        """Round the weight; see `linear.quantize`."""
        weight_OI, scale_O = quantize(weight_OI.detach())
        return cls(kernels, weight_OI, scale_O, bias_O)

    def forward(self, input_TI: Tensor) -> Tensor:
        """Return input @ weight.T + bias; any leading dimensions."""
        rows_TI = input_TI.reshape(-1, input_TI.shape[-1]).contiguous()
        output_TO = self.kernels.linear(self.linear, rows_TI, None)
        return output_TO.view(*input_TI.shape[:-1], -1)

    def plus(self, input_TI: Tensor, other_TO: Tensor) -> Tensor:
        """Return input @ weight.T + bias + other, rounded once."""
        return self.kernels.linear(self.linear, input_TI.contiguous(), other_TO.contiguous())
