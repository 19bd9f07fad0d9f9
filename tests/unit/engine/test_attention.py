"""Ways to weigh that are chosen for speed give what the plain formula gives."""

import pytest
import torch

from worker.engine import attention
from worker.engine.attention import Rules, weigh

SEQUENCES, KV_HEADS, LENGTH, SIZE = 5, 2, 37, 16


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def expected(query, key, value, allowed, scaling):
    scores = (query @ key.mT) * scaling
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1) @ value


@pytest.mark.parametrize("num_queries", [1, 2, 4])
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_decodes_in_bf16_side_by_side(num_queries, is_masked, at_once, monkeypatch):
    key, value = draw(SEQUENCES, KV_HEADS, LENGTH, SIZE), draw(SEQUENCES, KV_HEADS, LENGTH, SIZE)
    query = draw(SEQUENCES, KV_HEADS, num_queries, SIZE)
    allowed = None
    if is_masked:
        lengths = torch.tensor([1, 36, 37, 9, 20])
        allowed = (torch.arange(LENGTH) < lengths[:, None])[:, None, None]
    small = [tensor.bfloat16() for tensor in (query, key, value)]
    monkeypatch.setattr(attention, "MOST_PRODUCT_BYTES", at_once * small[1][0].nbytes)
    assert attention._are_products_faster(small[0])
    got = weigh(*small, allowed, Rules(scaling=0.25))
    wanted = expected(*(tensor.float() for tensor in small), allowed, 0.25)
    torch.testing.assert_close(got.float(), wanted, rtol=2e-2, atol=2e-2)


def test_fp32_is_left_to_the_exact_kernel():
    assert not attention._are_products_faster(draw(SEQUENCES, KV_HEADS, 2, SIZE))
