"""The compiled kernels give what torch gives, row by row, whatever lies beside a row."""

import copy
import math
import platform

import pytest
import torch

from worker.engine import weights
from worker.engine.attention import Rules
from worker.engine.fused_layer import fuse
from worker.engine.kernel_build import FLAGS, build
from worker.engine.kernel_linear import KernelLinear
from worker.engine.kernels import DecodeAttention, Kernels
from worker.engine.linear import quantize
from worker.engine.loader import describe
from worker.engine.runner import Chunk
from worker.engine.slot_runner import SlotRunner

DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [1, 2, 16, 17, 63, 64, 65, 300, 2000]
CONTEXT = 2010
# Query heads, key-value heads, size of keys, size of values.
SHAPES = [(4, 2, 64, 64), (3, 3, 33, 17), (7, 1, 20, 24), (8, 1, 16, 80)]
SINKS = torch.linspace(-2, 2, 8)
RULES = {
    "plain": Rules(0.2),
    "window": Rules(0.2, window=37),
    "window of one": Rules(0.2, window=1),
    "softcap": Rules(0.4, softcap=3.0),
    "sinks": Rules(0.2, sinks_H=SINKS),
}


class Cached:
    """Sequences in slots, in an order of their own; all else in the cache is not a number."""

    def __init__(self, shape, dtype, lengths):
        torch.manual_seed(5)
        num_heads, num_kv_heads, size, value_size = shape
        self.lengths = lengths
        self.slots = list(reversed(range(len(lengths))))
        self.keys = torch.full((len(lengths), num_kv_heads, CONTEXT, size), math.nan, dtype=dtype)
        self.values = self.keys.new_full((*self.keys.shape[:3], value_size), math.nan)
        self.texts = []
        for slot, length in zip(self.slots, lengths, strict=True):
            text = (
                torch.randn(num_kv_heads, length, size + value_size)
                .to(dtype)
                .split([size, value_size], dim=-1)
            )
            self.keys[slot, :, : length - 1] = text[0][:, :-1]
            self.values[slot, :, : length - 1] = text[1][:, :-1]
            self.texts.append(text)
        self.query = torch.randn(len(lengths), num_heads, size).to(dtype)

    def attend(self, kernels, rules, rows=None):
        """What the sequences of these rows see, run at once."""
        rows = list(range(len(self.lengths))) if rows is None else rows
        new = [torch.stack([text[part][:, -1] for text in self.texts]) for part in (0, 1)]
        out = self.query.new_full((len(self.lengths), self.query.shape[1], new[1].shape[-1]), -9)
        decode = DecodeAttention(
            kernels, [self.slots[r] for r in rows], rows, [self.lengths[r] for r in rows]
        )
        heads_first = (tensor.transpose(0, 1) for tensor in (self.query, *new))
        decode(*heads_first, self.keys, self.values, rules, out)
        return out

    def expected(self, row, rules):
        """The plain formula in double."""
        keys, values = (part.double() for part in self.texts[row])
        shared = self.query.shape[1] // len(keys)
        keys, values = keys.repeat_interleave(shared, 0), values.repeat_interleave(shared, 0)
        scores = torch.einsum("hd,hld->hl", self.query[row].double(), keys) * rules.scaling
        if rules.softcap is not None:
            scores = torch.tanh(scores / rules.softcap) * rules.softcap
        if rules.window is not None:
            scores[:, : max(0, self.lengths[row] - rules.window)] = -math.inf
        if rules.sinks_H is not None:
            scores = torch.cat([scores, rules.sinks_H[: len(scores), None].double()], dim=-1)
        return torch.einsum("hl,hld->hd", scores.softmax(-1)[:, : keys.shape[1]], values)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_decodes_see_what_the_formula_says_and_nothing_beyond_their_length(
    dtype, shape, rules, kernels
):
    cached, rules = Cached(shape, dtype, LENGTHS), RULES[rules]
    got = cached.attend(kernels, rules)
    most_off = 1e-5 if dtype is torch.float32 else 2e-2
    for row in range(len(LENGTHS)):
        torch.testing.assert_close(
            got[row].double(), cached.expected(row, rules), rtol=most_off, atol=most_off
        )


def test_a_decode_caches_its_new_key_and_value(kernels):
    cached = Cached(SHAPES[1], torch.float32, LENGTHS)
    cached.attend(kernels, RULES["plain"])
    for row, (slot, length) in enumerate(zip(cached.slots, LENGTHS, strict=True)):
        assert torch.equal(cached.keys[slot, :, :length], cached.texts[row][0])
        assert torch.equal(cached.values[slot, :, :length], cached.texts[row][1])
        assert cached.keys[slot, :, length:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_decode_sees_does_not_depend_on_those_beside_it(dtype, kernels):
    cached = Cached(SHAPES[0], dtype, LENGTHS)
    together = cached.attend(kernels, RULES["plain"])
    for row in range(len(LENGTHS)):
        alone = cached.attend(kernels, RULES["plain"], rows=[row])
        assert torch.equal(alone[row], together[row])
        assert (alone[:row] == -9).all(), "another row was written to"


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_decode_of_what_is_not_a_number_leaves_the_others_alone(softcap, kernels):
    cached, rules = Cached(SHAPES[0], torch.bfloat16, LENGTHS), Rules(0.2, softcap=softcap)
    expected = cached.attend(kernels, rules)
    cached.query[4, 1] = math.nan
    cached.texts[7][1][0, 100] = math.nan
    cached.values[cached.slots[7], 0, 100] = math.nan
    got = cached.attend(kernels, rules)
    assert got[4, 1].isnan().all()
    assert got[7, :2].isnan().all()  # the heads that share that value
    got[4, 1], got[7, :2] = expected[4, 1], expected[7, :2]
    assert torch.equal(got, expected)


def layer_of(kernels, is_int8, num_in, num_out):
    """A layer, and the weight and bias that it computes with, in double."""
    if not (kernels.has_int8 if is_int8 else kernels.has_bf16):
        pytest.skip("this processor has no such instructions")
    torch.manual_seed(num_in + num_out)
    weight, bias = (torch.randn(num_out, num_in) * 0.1).bfloat16(), torch.randn(num_out).bfloat16()
    if not is_int8:
        return KernelLinear.in_bf16(kernels, weight, bias), weight.double(), bias.double()
    rounded, scale = quantize(weight)
    exact = rounded.double() * scale.double()[:, None]
    return KernelLinear.in_int8(kernels, weight, bias), exact, bias.double()


def off(got, expected):
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize(("num_in", "num_out"), [(64, 32), (50, 7), (1100, 65)])
def test_a_linear_layer_gives_each_row_the_same_in_any_number_of_rows(
    num_in, num_out, is_int8, kernels
):
    layer, weight, bias = layer_of(kernels, is_int8, num_in, num_out)
    rows, other = torch.randn(30, num_in).bfloat16(), torch.randn(30, num_out).bfloat16()
    rows[3, 1] = 500.0  # beside an outlier, the others count still
    expected = rows.double() @ weight.T + bias
    for count in [*range(1, 14), 24, 25, 30]:
        got = layer(rows[:count])
        assert off(got, expected[:count]) < 4e-3
        assert off(layer.plus(rows[:count], other[:count]), (expected + other)[:count]) < 4e-3
        assert torch.equal(got, layer(rows)[:count])
    assert torch.equal(layer(rows[None, None]), layer(rows)[None, None])


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_linear_layer_passes_on_what_is_no_number(bad, is_int8, kernels):
    layer, _, _ = layer_of(kernels, is_int8, 64, 40)
    rows = torch.randn(15, 64).bfloat16()
    good = layer(rows)
    rows[6, 9] = bad
    got = layer(rows)
    assert not got[6].isfinite().any()
    assert torch.equal(got[[0, 5, 7, 14]], good[[0, 5, 7, 14]])


@torch.inference_mode()
def logits_over_slots(loaded, kernels, num_sequences=3):
    """Prompts, of which all but the last token are one chunk, then decodes; a row for each."""
    loaded = copy.copy(loaded)
    loaded.kernels = kernels
    runner, rows = SlotRunner(loaded, num_sequences), []
    texts = [list(range(5 + key, 12 + 9 * key)) for key in range(num_sequences)]
    for key, ids in enumerate(texts):
        runner.place(key, ids)
        runner.run([Chunk(key, ids[:-1], 0)])
    for _ in range(3):
        chunks = [Chunk(key, ids[-1:], len(ids) - 1) for key, ids in enumerate(texts)]
        assert all(runner.reserve(chunk.key, 1) for chunk in chunks)
        rows.append(runner.run(chunks).float())
        texts = [[*ids, 40] for ids in texts]
    return torch.cat(rows)


@pytest.mark.parametrize("make", [weights.pack, weights.make_int8])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2"])
def test_a_model_on_the_kernels_is_about_as_far_from_fp32_as_on_torch(
    family, make, kernels, model_of, usual
):
    if not (kernels.has_bf16 and kernels.has_int8):
        pytest.skip("this processor has no such instructions")
    by_torch = copy.deepcopy(usual(model_of(family))).to(torch.bfloat16)
    by_kernels = copy.deepcopy(by_torch)
    make(by_torch)
    make(by_kernels, kernels)
    assert any(isinstance(module, KernelLinear) for module in by_kernels.modules())
    num_fused = fuse(by_kernels)
    assert num_fused == fuse(by_torch) == (0 if family in ("gemma2", "gpt2") else 2)
    for layer in by_kernels.model.layers if num_fused else ():
        assert layer.forward._kernels is not None
    in_fp32, loaded = logits_over_slots(model_of(family), None), copy.copy(model_of(family))
    loaded.model = by_torch
    off_by_torch = off(logits_over_slots(loaded, None), in_fp32.double())
    loaded.model = by_kernels
    off_by_kernels = off(logits_over_slots(loaded, kernels), in_fp32.double())
    assert 0 < off_by_kernels < 2 * off_by_torch


def test_in_bf16_a_sequence_has_the_same_logits_alone_and_beside_others(
    kernels, usual, model_of, tokenizer
):
    if not kernels.has_bf16:
        pytest.skip("this processor has no such instructions")
    model = copy.deepcopy(usual(model_of("qwen3"))).to(torch.bfloat16)
    weights.pack(model, kernels)
    fuse(model)
    loaded = describe(model, tokenizer, "test")
    alone, beside = (logits_over_slots(loaded, kernels, count) for count in (1, 3))
    assert torch.equal(alone, beside[::3])


@pytest.mark.slow  # compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are of another processor")
@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3"])
def test_attention_needs_no_new_processor(level, kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = [flag for flag in FLAGS if not flag.startswith("-march")]
    plain = Kernels(build((*flags, f"-march={level}")))
    assert (plain.has_bf16, plain.has_int8) == (False, False)
    for dtype in DTYPES:
        cached = Cached(SHAPES[1], dtype, LENGTHS)
        expected = cached.attend(kernels, RULES["softcap"])
        got = cached.attend(plain, RULES["softcap"])
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-5)


@pytest.fixture
def threads():
    """Set the number of threads; back to one at the end."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_the_number_of_threads_changes_no_bit(kernels, threads):
    cached = Cached(SHAPES[0], torch.float32, LENGTHS)
    layers = [layer_of(kernels, is_int8, 1024, 200)[0] for is_int8 in (False, True)]
    rows = torch.randn(30, 1024).bfloat16()

    def run(num_threads):
        threads(num_threads)
        seen = cached.attend(kernels, RULES["plain"])
        return [seen, *(layer(rows[:count]) for layer in layers for count in (1, 2, 13, 30))]

    for alone, shared in zip(run(1), run(3), strict=True):
        assert torch.equal(alone, shared)
