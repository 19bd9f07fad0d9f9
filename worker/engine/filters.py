"""Which tokens of each row may be drawn: top-k, top-p and min-p, each with transformers' meaning.

Top-k keeps ties with the k-th score, top-p keeps the token that crosses it, and min-p looks at what
top-p left. Of tied tokens top-p keeps those with the smaller ids, as the greedy choice does. What a
row keeps depends on its own scores alone, to the bit: running sums are taken in
double precision, in an order that is the row's own.

No vocabulary is sorted. `shortlist` looks at the few best tokens, which are mostly all that can be
drawn. `weights` is for the rows where they are not: a token falls into a bucket by its distance
from its row's best one, and only the bucket in which a filter's border lies is sorted.

Shape suffixes (this file): B = rows, one per sequence; V = vocabulary; C = tokens of a shortlist;
K = buckets, the best first; M = members, the tokens of a mask, padded to the longest row's;
1 = a broadcast dimension.

Source:
    Holtzman et al. 2020, nucleus sampling (arXiv:1904.09751); Nguyen et al. 2024, min-p
    (arXiv:2407.01082).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.sequence import SamplingParams

SHORTLIST = 256
NUM_BUCKETS = 2048
BUCKETS_PER_NAT = 64
"""Beyond 32 nats, a share of e**-32, all tokens fall into the last bucket."""
LEAST_TEMPERATURE = 1e-30
"""As far as a score can be divided in fp32; below it every draw is the best token's anyway."""


def shortlist(
    scores_BV: Tensor, params: Sequence[SamplingParams]
) -> tuple[Tensor, Tensor, list[bool]]:
    """Return how likely each of the best tokens is to be drawn, up to a factor of its row's own.

    This operation will not modify the scores.

    Args:
        scores_BV: fp32, at least one finite score in each row; -inf is never drawn.
        params: One per row, none of them greedy, each with a filter.

    Returns:
        Ids (B, C), ascending; weights (B, C), fp64, 0 where a filter dropped the token; and
        whether that is all of the row: else its weights are not to be used.
    """
    size = min(SHORTLIST, scores_BV.shape[-1])
    best = scores_BV.topk(size, dim=-1)
    ranked_BC = best.values
    temperature_B1 = _temperatures(params, scores_BV)
    mass_BC = ((ranked_BC - ranked_BC[:, :1]) / temperature_B1).double().exp_()
    top_k = _top_ks(params, scores_BV)
    if any(top_k):
        # Ties are kept; who has no top-k, or a larger one, keeps all that is here.
        index_B1 = _column([min(k or size, size) - 1 for k in top_k], best.indices)
        mass_BC.masked_fill_(ranked_BC < ranked_BC.gather(1, index_B1), 0)
    total_BC = mass_BC.cumsum(dim=-1)
    if any(p.top_p < 1 for p in params):
        whole_B1 = total_BC[:, -1:].clone()
        open_ended = [row for row, p in enumerate(params) if p.top_p < 1 and not top_k[row]]
        if open_ended and size < scores_BV.shape[-1]:
            whole_B1[open_ended] = _partition(scores_BV, temperature_B1, open_ended)
        mass_BC.masked_fill_(total_BC - mass_BC >= _targets(params, whole_B1), 0)
    if any(p.min_p > 0 for p in params):
        mass_BC.masked_fill_(mass_BC < _column([p.min_p for p in params], mass_BC), 0)
    # Of tied tokens `topk` may leave out any: all of the last score's have to be here.
    last_B1 = ranked_BC.gather(1, (mass_BC > 0).sum(dim=-1, keepdim=True) - 1)
    is_closed = (last_B1 > ranked_BC[:, -1:]).squeeze(1).tolist()
    is_all = [
        size == scores_BV.shape[-1] or (closed and k <= size)
        for closed, k in zip(is_closed, top_k, strict=True)
    ]
    width = int((ranked_BC >= last_B1).sum(dim=-1).max())
    mass_BC, (ids_BC, order_BC) = mass_BC[:, :width], best.indices[:, :width].sort(dim=-1)
    if not any(p.top_p < 1 for p in params):  # tied tokens have the same mass
        return ids_BC, mass_BC.gather(1, order_BC), is_all
    # Nor is their order certain. Here the smaller id ranks first, as in `weights`.
    scores_BC = ranked_BC.gather(1, order_BC)
    place_BC = scores_BC.sort(dim=-1, descending=True, stable=True).indices
    return ids_BC, torch.zeros_like(mass_BC).scatter_(1, place_BC, mass_BC), is_all


def weights(scores_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return how likely each token is to be drawn, up to a factor of its row's own.

    This operation will not modify the scores.

    Args:
        scores_BV: fp32, at least one finite score in each row; -inf is never drawn.
        params: One per row, none of them greedy.

    Returns:
        fp32 (B, V); tokens that a filter dropped have 0.
    """
    scaled_BV = _scaled(scores_BV, _temperatures(params, scores_BV))
    weights_BV = scaled_BV.softmax(dim=-1)
    top_k = _top_ks(params, scores_BV)
    if any(top_k) or any(p.top_p < 1 for p in params):
        bucket_BV = scaled_BV.mul_(-BUCKETS_PER_NAT).clamp_(max=NUM_BUCKETS - 1).long()
        if any(top_k):
            weights_BV.masked_fill_(~_top_k(scores_BV, bucket_BV, top_k), 0)
        if any(p.top_p < 1 for p in params):
            weights_BV.masked_fill_(~_top_p(scores_BV, bucket_BV, weights_BV, params), 0)
    if any(p.min_p > 0 for p in params):
        least_B1 = _column([p.min_p for p in params], scores_BV) * weights_BV.amax(-1, keepdim=True)
        weights_BV.masked_fill_(weights_BV < least_B1, 0)
    return weights_BV


def members(mask_BV: Tensor) -> tuple[Tensor, Tensor]:
    """List the tokens of a mask, in ascending order of their ids.

    Returns:
        Ids (B, M), and which of them are no padding (B, M).
    """
    rows_N, ids_N = mask_BV.nonzero(as_tuple=True)
    counts_B = rows_N.bincount(minlength=len(mask_BV))
    first_B = counts_B.cumsum(0) - counts_B
    num_columns = int(counts_B.max())
    columns_N = torch.arange(len(rows_N), device=mask_BV.device) - first_B[rows_N]
    ids_BM = ids_N.new_zeros(len(mask_BV), num_columns)
    ids_BM[rows_N, columns_N] = ids_N
    is_real_BM = torch.arange(num_columns, device=mask_BV.device) < counts_B[:, None]
    return ids_BM, is_real_BM


def _top_k(scores_BV: Tensor, bucket_BV: Tensor, top_k: Sequence[int]) -> Tensor:
    target_B1 = _column([k or torch.inf for k in top_k], bucket_BV, torch.float64)
    one_BV = torch.ones((), dtype=torch.float64, device=scores_BV.device).expand_as(scores_BV)
    total_BK = _running_total(bucket_BV, one_BV)
    return _best(scores_BV, bucket_BV, one_BV, total_BK, target_B1, keeps_ties=True)


def _top_p(
    scores_BV: Tensor, bucket_BV: Tensor, weights_BV: Tensor, params: Sequence[SamplingParams]
) -> Tensor:
    mass_BV = weights_BV.double()
    total_BK = _running_total(bucket_BV, mass_BV)
    target_B1 = _targets(params, total_BK[:, -1:])
    return _best(scores_BV, bucket_BV, mass_BV, total_BK, target_B1, keeps_ties=False)


def _running_total(bucket_BV: Tensor, mass_BV: Tensor) -> Tensor:
    total_BK = mass_BV.new_zeros(len(bucket_BV), NUM_BUCKETS)
    return total_BK.scatter_add_(1, bucket_BV, mass_BV).cumsum(dim=-1)


def _best(
    scores_BV: Tensor,
    bucket_BV: Tensor,
    mass_BV: Tensor,
    total_BK: Tensor,
    target_B1: Tensor,
    *,
    keeps_ties: bool,
) -> Tensor:
    """Keep each row's best tokens until their mass reaches its target.

    Args:
        scores_BV: What makes a token better.
        bucket_BV: int64 in [0, K); a better token is in no later bucket.
        mass_BV: fp64, what each token adds.
        total_BK: fp64, the mass of a bucket and of all before it.
        target_B1: fp64, above 0; infinity keeps all.
        keeps_ties: Whether tokens of the last score that is kept are all kept; else those with
            the smallest ids are, as many as it takes.

    Returns:
        A mask (B, V) with at least the best token of each row.
    """
    border_B1 = torch.searchsorted(total_BK, target_B1)
    kept_BV = bucket_BV < border_B1
    ids_BM, is_real_BM = members(bucket_BV == border_B1)
    if not ids_BM.shape[1]:
        return kept_BV
    scores_BM = scores_BV.gather(1, ids_BM).masked_fill(~is_real_BM, -torch.inf)
    scores_BM, order_BM = scores_BM.sort(dim=-1, descending=True, stable=True)
    ids_BM, is_real_BM = ids_BM.gather(1, order_BM), is_real_BM.gather(1, order_BM)
    mass_BM = mass_BV.gather(1, ids_BM).masked_fill(~is_real_BM, 0)
    before_B1 = total_BK.gather(1, (border_B1 - 1).clamp(0, NUM_BUCKETS - 1))
    before_B1 = before_B1.masked_fill(border_B1 == 0, 0)
    # Mass strictly before each token. Testing this, not the running total,
    # keeps the token that crosses the target and so never empties a row.
    before_BM = before_B1 + (mass_BM.cumsum(dim=-1) - mass_BM)
    kept_BM = (before_BM < target_B1) & is_real_BM
    if keeps_ties:
        last_B1 = scores_BM.masked_fill(~kept_BM, torch.inf).amin(dim=-1, keepdim=True)
        kept_BM = (scores_BM >= last_B1) & is_real_BM
    rows_N, columns_N = kept_BM.nonzero(as_tuple=True)
    kept_BV[rows_N, ids_BM[rows_N, columns_N]] = True
    return kept_BV


def _temperatures(params: Sequence[SamplingParams], scores_BV: Tensor) -> Tensor:
    return _column([max(p.temperature, LEAST_TEMPERATURE) for p in params], scores_BV)


def _top_ks(params: Sequence[SamplingParams], scores_BV: Tensor) -> list[int]:
    return [p.top_k if p.top_k < scores_BV.shape[-1] else 0 for p in params]


def _targets(params: Sequence[SamplingParams], whole_B1: Tensor) -> Tensor:
    """The mass at which top-p is reached; infinite without a top-p."""
    share_B1 = _column([p.top_p if p.top_p < 1 else torch.inf for p in params], whole_B1)
    # A target of 0 would keep nothing: it is reached before the first token.
    return (share_B1 * whole_B1).clamp_(min=torch.finfo(torch.float64).tiny)


def _scaled(scores_BV: Tensor, temperature_B1: Tensor) -> Tensor:
    # Relative to the best score, so that a small temperature cannot overflow.
    return (scores_BV - scores_BV.amax(dim=-1, keepdim=True)).div_(temperature_B1)


def _partition(scores_BV: Tensor, temperature_B1: Tensor, rows: Sequence[int]) -> Tensor:
    """The mass of the whole vocabulary, where the best token's is 1; row by row, to stay in cache.

    By a softmax, whose sum over a row does not depend on how many rows there are.
    """
    rows_V = [_scaled(scores_BV[row : row + 1], temperature_B1[row : row + 1]) for row in rows]
    return torch.cat([1 / row_1V.softmax(-1).amax(-1, keepdim=True).double() for row_1V in rows_V])


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.tensor(values, dtype=dtype or like.dtype, device=like.device)[:, None]
