"""The attention that transformers' models call: over our own cache instead of theirs.

A model that is set to this attention builds no mask and keeps no cache. What it computes of
queries, keys and values comes here, with the step that the runner handed to its `forward`.

Shape suffixes (this file): T = tokens of a step; H = query heads; K = key-value heads; G = query
heads that share a key-value head; B = sequences side by side; Q = queries of each; L = cached
tokens; D = head size.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

NAME = "baton"

LEAST_BY_PRODUCTS = 4
"""Sequences side by side from which two plain products beat the flash kernel on a CPU in bf16."""

MOST_QUERIES = 16
"""Of each key-value head, for the same."""

MOST_PRODUCT_BYTES = 16 << 20
"""Keys of one product: oneDNN copies them, and what is larger comes fresh from the system."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a layer weighs what it sees.

    Attributes:
        scaling: Factor of the scores.
        window: A token sees itself and the `window - 1` before it; None: all before it.
        softcap: Scores are squashed into (-softcap, softcap); None: not.
        sinks_H: A score a head that takes weight and gives nothing; None: none.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks_H: Tensor | None = None


class Step(Protocol):
    """One forward pass: knows which token is whose, and where its cache is."""

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, rules: Rules
    ) -> Tensor:
        """Cache the new keys and values, and return what each token sees, as (T, H, D)."""
        ...


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    baton: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as a layer asks to; the batch has one row, with the tokens of all sequences.

    Source:
        The contract of transformers' `AttentionInterface`.
    """
    assert attention_mask is None, "a mask was built that nobody would look at"
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    rules = Rules(scaling, sliding_window, softcap, s_aux)
    out_THD = baton.attend(module.layer_idx, query[0], key[0], value[0], rules)
    return out_THD[None], None


AttentionInterface.register(NAME, attend)


def weigh(
    query_BKQD: Tensor,
    key_BKLD: Tensor,
    value_BKLD: Tensor,
    allowed: Tensor | None,
    rules: Rules,
) -> Tensor:
    """Return softmax(query @ key) @ value, as (B, K, Q, D).

    Args:
        query_BKQD: The heads that share keys lie one after another in Q.
        key_BKLD: Cached keys.
        value_BKLD: Cached values.
        allowed: Boolean, broadcastable to (B, 1, Q, L); None: all are seen.
        rules: Of the layer.
    """
    if rules.softcap is None and rules.sinks_H is None:
        if _are_products_faster(query_BKQD):
            return _weigh_by_products(query_BKQD, key_BKLD, value_BKLD, allowed, rules.scaling)
        return functional.scaled_dot_product_attention(
            query_BKQD, key_BKLD, value_BKLD, attn_mask=allowed, scale=rules.scaling
        )
    scores = (query_BKQD @ key_BKLD.mT) * rules.scaling
    if rules.softcap is not None:
        scores = torch.tanh(scores / rules.softcap) * rules.softcap
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if rules.sinks_H is not None:
        num_heads, num_queries = scores.shape[1], scores.shape[2]
        sinks_KG = rules.sinks_H.view(num_heads, -1)
        sinks_KQ = sinks_KG.repeat_interleave(num_queries // sinks_KG.shape[1], dim=1)
        sinks = sinks_KQ.to(scores.dtype)[None, :, :, None].expand(len(scores), -1, -1, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.float().softmax(dim=-1).to(query_BKQD.dtype)
    return weights[..., : key_BKLD.shape[2]] @ value_BKLD


def _are_products_faster(query_BKQD: Tensor) -> bool:
    """Whether plain products beat the flash kernel, which a CPU runs head by head."""
    is_bf16_on_cpu = query_BKQD.dtype is torch.bfloat16 and query_BKQD.device.type == "cpu"
    num_sequences, _, num_queries, _ = query_BKQD.shape
    return is_bf16_on_cpu and num_sequences >= LEAST_BY_PRODUCTS and num_queries <= MOST_QUERIES


def _weigh_by_products(
    query_BKQD: Tensor,
    key_BKLD: Tensor,
    value_BKLD: Tensor,
    allowed: Tensor | None,
    scaling: float,
) -> Tensor:
    """Attend with few queries a head; scores are rounded to bf16, as in transformers' own."""
    out_BKQD = query_BKQD.new_empty(*query_BKQD.shape[:-1], value_BKLD.shape[-1])
    num_at_once = max(1, MOST_PRODUCT_BYTES // key_BKLD[0].nbytes)
    for first in range(0, len(query_BKQD), num_at_once):
        rows = slice(first, first + num_at_once)
        query = query_BKQD[rows].flatten(0, 1)
        # Keys on the left: the other way round, each is transposed first.
        scores = torch.bmm(key_BKLD[rows].flatten(0, 1), query.mT).mT.float() * scaling
        if allowed is not None:
            by_sequence = scores.view(-1, query_BKQD.shape[1], *scores.shape[1:])
            by_sequence.masked_fill_(~allowed[rows], -torch.inf)
        weights = scores.softmax(dim=-1).to(query.dtype).contiguous()
        out = torch.bmm(weights, value_BKLD[rows].flatten(0, 1))
        out_BKQD[rows] = out.view_as(out_BKQD[rows])
    return out_BKQD
