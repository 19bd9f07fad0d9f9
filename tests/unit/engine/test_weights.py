"""Packed, fused and int8 layers give what the plain ones gave, as far as their numbers allow."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engine import linear, weights
from worker.engine.fused_layer import fuse
from worker.engine.linear import (
    FusedLinears,
    Int8Embedding,
    Int8Linear,
    PackedLinear,
    quantize,
)
from worker.engine.loader import describe
from worker.engine.runner import Chunk
from worker.engine.slot_runner import SlotRunner

HAS_UNITS = weights._has_bf16_units()
needs_units = pytest.mark.skipif(not HAS_UNITS, reason="no bf16 units")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


@pytest.fixture
def plain(model_of, usual):
    """A family's random model in bf16, with transformers' own attention."""
    return lambda family: copy.deepcopy(usual(model_of(family))).to(torch.bfloat16)


@torch.inference_mode()
def logits_over_slots(model, tokenizer, ids):
    """A prompt in two chunks, then token by token; a row for the end of each."""
    runner = SlotRunner(describe(model, tokenizer, "test"), 2)
    runner.place(1, ids)
    rows, done = [], 0
    for count in [4, len(ids) - 7, 1, 1, 1]:
        chunk = Chunk(1, ids[done : done + count], done)
        assert runner.reserve(1, count)
        rows.append(runner.run([chunk])[0].float())
        done += count
    return torch.stack(rows)


def off(got, expected):
    """How far logits are from others, as a share of their size."""
    got, expected = got.detach(), expected.detach()
    return float((got.float() - expected.float()).norm() / expected.float().norm())


@needs_units
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
def test_a_packed_model_gives_the_same_logits(family, plain):
    usual = plain(family)
    packed = copy.deepcopy(usual)
    # Per layer: q, k, v, o, gate, up, down; and the head.
    assert weights.pack(packed) == 2 * 7 + 1
    assert not any(type(module) is nn.Linear for module in packed.modules())
    ids = IDS
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(packed(ids).logits, usual(ids).logits, rtol=2e-2, atol=2e-2)
            ids = ids[:, :1]


@needs_units
def test_fused_linears_keep_nothing_between_two_steps(plain):
    model = plain("llama")
    weights.pack(model)
    with torch.inference_mode():
        model(IDS)
    fused = [module for module in model.modules() if isinstance(module, FusedLinears)]
    assert len(fused) == 4
    assert all(part._input is None and part._outputs == () for part in fused)


def test_a_model_in_fp32_is_left_as_it_is(model_of, usual):
    model = copy.deepcopy(usual(model_of("llama")))
    assert weights.pack(model) == 0


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_in_fp32_a_fused_layer_gives_the_bits_of_the_layer(family, model_of, usual, tokenizer):
    plain = copy.deepcopy(usual(model_of(family)))
    fused = copy.deepcopy(plain)
    assert fuse(fused) == 2
    ids = list(range(5, 35))
    expected = logits_over_slots(plain, tokenizer, ids)
    assert torch.equal(logits_over_slots(fused, tokenizer, ids), expected)


@needs_units
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("kind", [weights.pack, weights.make_int8])
def test_a_fused_layer_gives_the_logits_of_the_layer(family, kind, plain, tokenizer):
    usual, fused = plain(family), plain(family)
    kind(usual)
    kind(fused)
    assert fuse(fused) == 2
    ids = list(range(5, 35))
    expected = logits_over_slots(usual, tokenizer, ids)
    assert off(logits_over_slots(fused, tokenizer, ids), expected) < 5e-2
    # Without our attention the layer itself runs.
    fused.set_attn_implementation("eager")
    usual.set_attn_implementation("eager")
    with torch.inference_mode():
        assert off(fused(IDS).logits, usual(IDS).logits) < 1e-6


@needs_units
def test_a_window_reaches_the_cache_from_a_fused_layer(plain, tokenizer):
    model = plain("mistral")
    weights.pack(model)
    fuse(model)
    runner = SlotRunner(describe(model, tokenizer, "test"), 2)
    runner.place(1, [5, 6, 7])
    runner.run([Chunk(1, [5, 6, 7], 0)])
    assert runner.windows == {0: 8, 1: 8}


@needs_units
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "gpt2", "phi3"])
def test_layers_of_another_kind_are_not_fused(family, plain):
    model = plain(family)
    weights.pack(model)
    assert fuse(model) == 0


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gpt2"])
def test_int8_weights_give_logits_close_to_bf16(family, plain):
    usual = plain(family)
    rounded = copy.deepcopy(usual)
    assert weights.make_int8(rounded) > 0
    assert not any(type(module) is nn.Linear for module in rounded.modules())
    with torch.inference_mode():
        assert off(rounded(IDS).logits, usual(IDS).logits) < 1e-1


@pytest.mark.parametrize("has_fbgemm", [True, False])
@pytest.mark.parametrize("num_rows", [1, 2, 70])
@pytest.mark.parametrize("has_bias", [True, False])
def test_an_int8_layer_computes_with_the_rounded_weight(
    num_rows, has_bias, has_fbgemm, monkeypatch
):
    if not has_fbgemm:
        monkeypatch.setattr(linear, "_FBGEMM", "none such")
    torch.manual_seed(3)
    plain = nn.Linear(64, 1504, bias=has_bias, dtype=torch.bfloat16)
    layer = Int8Linear(plain.weight, plain.bias)
    rows = torch.randn(num_rows, 64, dtype=torch.bfloat16)
    rows[0, 5] = 1000  # beside an outlier, the others count still
    weight, scale = quantize(plain.weight)
    exact = rows.float() @ (weight.float() * scale.float()[:, None]).T
    exact = exact + plain.bias.float() if has_bias else exact
    with torch.inference_mode():
        got, added = layer(rows[None])[0], layer.plus(rows, torch.ones(num_rows, 1504).bfloat16())
        alone = layer(rows[-1:])
    assert off(got, exact) < 5e-3
    assert off(added, exact + 1) < 5e-3
    if has_fbgemm:
        assert torch.equal(alone[0], got[-1]), "a row depends on those beside it"


def test_an_int8_layer_passes_on_what_is_no_number():
    layer = Int8Linear(torch.randn(16, 64).bfloat16(), None)
    rows = torch.zeros(3, 64, dtype=torch.bfloat16)
    rows[1, 3] = torch.nan
    with torch.inference_mode():
        got = layer(rows)
    assert torch.equal(got.isnan().any(-1), torch.tensor([False, True, False]))
    assert (got[::2] == 0).all()


def test_no_weight_is_rounded_by_more_than_half_a_step():
    torch.manual_seed(4)
    weight = torch.randn(40, 96).bfloat16()
    weight[3] = 0
    rounded, scale = quantize(weight)
    assert rounded.dtype is torch.int8
    assert int(rounded.abs().max()) <= 127
    error = (rounded.float() * scale.float()[:, None] - weight.float()).abs()
    assert (error <= scale.float()[:, None] * 0.5001).all()
    assert (rounded[3] == 0).all()


def test_a_tied_embedding_becomes_int8_too():
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=2000,
        tie_word_embeddings=True,
    )
    usual = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    rounded = copy.deepcopy(usual)
    weights.make_int8(rounded)
    assert isinstance(rounded.get_input_embeddings(), Int8Embedding)
    # What is left in bf16: the norms.
    assert sum(parameter.numel() for parameter in rounded.parameters()) == 5 * 128
    with torch.inference_mode():
        assert off(rounded(IDS).logits, usual(IDS).logits) < 1e-1


def test_a_model_of_other_layers_is_not_called_int8(plain):
    with pytest.raises(ValueError, match="of its weights are in linear layers"):
        weights.make_int8(plain("gpt_oss"))


def test_packed_layers_add_what_they_are_given():
    if not HAS_UNITS:
        pytest.skip("no bf16 units")
    plain = nn.Linear(32, 48, dtype=torch.bfloat16)
    rows, other = torch.randn(3, 32).bfloat16(), torch.randn(3, 48).bfloat16()
    packed = PackedLinear(plain.weight, plain.bias)
    with torch.inference_mode():
        assert off(packed.plus(rows, other), plain(rows) + other) < 1e-2
