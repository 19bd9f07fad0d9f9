"""How likely tokens were, and which ones were likelier: read off logits, changing nothing.

Shape suffixes (this file): N = rows, one per token; V = vocabulary; M = candidates for the best,
padded to the longest row's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.filters import members
from worker.engine.sequence import LEAST_LOGPROB, TokenLogprobs

ROWS_AT_ONCE = 32
"""Bounds the memory: a prompt's rows are many, and each takes V numbers."""


def sampled_logprobs(
    logits_NV: Tensor, token_ids: Sequence[int], num_top: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """Return the log-probabilities of one step; see `TokenLogprobs`.

    Args:
        logits_NV: The model's own, any float dtype and device.
        token_ids: What was chosen of each row.
        num_top: How many of each row's best to list. Nothing is computed where it is None.

    Returns:
        One per row, None where none was asked for.
    """
    found: list[TokenLogprobs | None] = [None] * len(token_ids)
    for wanted in sorted({n for n in num_top if n is not None}):
        rows = [row for row, n in enumerate(num_top) if n == wanted]
        ids = [token_ids[row] for row in rows]
        for row, one in zip(rows, logprobs(logits_NV[rows], ids, wanted), strict=True):
            found[row] = one
    return found


def logprobs(logits_NV: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """Return the log-probability of one token per row, and the best of each row.

    Args:
        logits_NV: Finite, any float dtype and device.
        token_ids: One per row.
        num_top: How many of the best to list, at least 0; all there are where V is less.
    """
    found: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        logprobs_NV = logits_NV[rows].float().log_softmax(dim=-1).clamp_(min=LEAST_LOGPROB)
        ids_N1 = torch.tensor(token_ids[rows], device=logits_NV.device)[:, None]
        chosen = logprobs_NV.gather(1, ids_N1).squeeze(1).tolist()
        best = _best(logprobs_NV, min(num_top, logprobs_NV.shape[1]))
        found += [TokenLogprobs(*pair) for pair in zip(chosen, best, strict=True)]
    return found


def _best(logprobs_NV: Tensor, num_top: int) -> list[tuple[tuple[int, float], ...]]:
    if not num_top:
        return [()] * len(logprobs_NV)
    # `topk` may take any of several tied tokens: only what it says of the values is certain.
    least_N1 = logprobs_NV.topk(num_top, dim=-1).values[:, -1:]
    ids_NM, is_real_NM = members(logprobs_NV >= least_N1)
    values_NM = logprobs_NV.gather(1, ids_NM).masked_fill(~is_real_NM, -torch.inf)
    values_NM, order_NM = values_NM.sort(dim=-1, descending=True, stable=True)
    ids = ids_NM.gather(1, order_NM)[:, :num_top].tolist()
    values = values_NM[:, :num_top].tolist()
    return [tuple(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
