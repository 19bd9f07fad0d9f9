"""Replace a model's linear layers by faster ones, those that read the same input by one."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from worker.engine.kernel_linear import KernelLinear
from worker.engine.kernels import Kernels
from worker.engine.linear import (
    CpuLinear,
    FusedLinears,
    FusedPart,
    Int8Embedding,
    Int8Linear,
    LinearKind,
    PackedLinear,
)

LEAST_INT8_SHARE = 0.5
"""Of a model's weights, the share that has to become int8 for the model to be called so."""

# Layers of one block that read the same input, in the order in which the block calls them.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# Layers whose weight Mamba's code reads itself, without calling them.
_READ_FROM_OUTSIDE = frozenset({"dt_proj"})


def pack(model: PreTrainedModel, kernels: Kernels | None = None) -> int:
    """Lay the linear layers out for this CPU, in place, and free what they had.

    Only bf16 on a CPU with bf16 matrix instructions gains; anything else is left as it is.

    Args:
        model: Of any dtype on any device.
        kernels: They compute the layers where this processor can run them; else oneDNN does.

    Returns:
        How many layers were replaced.
    """
    if model.dtype is not torch.bfloat16 or model.device.type != "cpu" or not _has_bf16_units():
        return 0
    return _replace(model, _bf16_kind(kernels))


def make_int8(model: PreTrainedModel, kernels: Kernels | None = None) -> int:
    """Round the weights of the linear layers to int8, in place; the rest stays as it is.

    So is an embedding rounded that shares its weight with the head.

    Args:
        model: In bf16 on a CPU.
        kernels: They compute the layers where this processor can run them; else FBGEMM does.

    Returns:
        How many layers were replaced.

    Raises:
        ValueError: Most of the weights are in layers of another kind.
    """
    _turn_round(model)
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    num_linear = sum({id(m.weight): m.weight.numel() for m in linears}.values())
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    if num_linear < LEAST_INT8_SHARE * num_weights:
        share = num_linear / num_weights
        raise ValueError(f"only {share:.0%} of its weights are in linear layers")
    untyped: Any = model
    embedding, head = untyped.get_input_embeddings(), untyped.get_output_embeddings()
    is_tied = type(embedding) is nn.Embedding and embedding.weight is getattr(head, "weight", None)
    num_replaced = _replace(model, _int8_kind(kernels))
    if is_tied:
        untyped.set_input_embeddings(Int8Embedding(embedding.weight))
    return num_replaced


def _bf16_kind(kernels: Kernels | None) -> LinearKind:
    def make(weight_OI: Tensor, bias_O: Tensor | None) -> CpuLinear:
        if kernels is None or not kernels.has_bf16 or weight_OI.shape[1] % 2:
            return PackedLinear(weight_OI, bias_O)
        return KernelLinear.in_bf16(kernels, weight_OI, bias_O)

    return make


def _int8_kind(kernels: Kernels | None) -> LinearKind:
    def make(weight_OI: Tensor, bias_O: Tensor | None) -> CpuLinear:
        if kernels is None or not kernels.has_int8 or weight_OI.shape[1] % 2:
            return Int8Linear(weight_OI, bias_O)
        return KernelLinear.in_int8(kernels, weight_OI, bias_O)

    return make


def _replace(model: PreTrainedModel, kind: LinearKind) -> int:
    num_replaced = 0
    for block in list(model.modules()):
        for names in _SIBLINGS:
            linears: list[Any] = [getattr(block, name, None) for name in names]
            if _can_be_one(linears):
                fused = FusedLinears(linears, kind)
                for index, name in enumerate(names):
                    setattr(block, name, FusedPart(fused, index))
                num_replaced += len(names)
        for name, child in list(block.named_children()):
            if type(child) is nn.Linear and name not in _READ_FROM_OUTSIDE:
                replaced: Any = kind(child.weight, child.bias)
                # Mamba's code asks its head for this dtype, and for nothing else of the weight.
                replaced.weight = torch.empty(0, dtype=torch.bfloat16)
                setattr(block, name, replaced)
                num_replaced += 1
    return num_replaced


def _can_be_one(linears: list[Any]) -> bool:
    are_plain = all(type(linear) is nn.Linear for linear in linears)
    return are_plain and len({linear.bias is None for linear in linears}) == 1


def _turn_round(model: PreTrainedModel) -> None:
    """Make linear layers of the GPT-2 family's, which keep their weights as (I, O)."""
    for block in list(model.modules()):
        for name, child in list(block.named_children()):
            if isinstance(child, Conv1D):
                num_in, num_out = child.weight.shape
                linear = nn.Linear(num_in, num_out, device="meta")
                linear.weight = nn.Parameter(child.weight.detach().T, requires_grad=False)
                linear.bias = nn.Parameter(child.bias.detach(), requires_grad=False)
                setattr(block, name, linear)


def _has_bf16_units() -> bool:
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    has_mkldnn: Any = torch.backends.mkldnn.is_available
    return bool(has_mkldnn() and supported())
