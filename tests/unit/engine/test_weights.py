"""Packed layers give what the plain ones gave."""

import copy

import pytest
import torch
from torch import nn

from worker.engine import weights

HAS_UNITS = weights._has_bf16_units()
needs_units = pytest.mark.skipif(not HAS_UNITS, reason="no bf16 units")


@needs_units
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
def test_a_packed_model_gives_the_same_logits(family, model_of, usual):
    plain = copy.deepcopy(usual(model_of(family))).to(torch.bfloat16)
    packed = copy.deepcopy(plain)
    # Per layer: q, k, v, o, gate, up, down; and the head.
    assert weights.pack(packed) == 2 * 7 + 1
    assert not any(type(module) is nn.Linear for module in packed.modules())
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(packed(ids).logits, plain(ids).logits, rtol=2e-2, atol=2e-2)
            ids = ids[:, :1]


@needs_units
def test_fused_layers_keep_nothing_between_two_steps(model_of, usual):
    model = copy.deepcopy(usual(model_of("llama"))).to(torch.bfloat16)
    weights.pack(model)
    with torch.inference_mode():
        model(torch.tensor([[5, 6, 7]]))
    fused = [module for module in model.modules() if isinstance(module, weights._Fused)]
    assert len(fused) == 4
    assert all(part._input is None and part._outputs == () for part in fused)


def test_a_model_in_fp32_is_left_as_it_is(model_of, usual):
    model = copy.deepcopy(usual(model_of("llama")))
    assert weights.pack(model) == 0
