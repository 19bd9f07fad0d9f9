"""Turn one row of logits per sequence into one token id per sequence.

Pure functions: no state, no sequence ids, no KV cache. Randomness enters only
through `uniform`, so an outcome depends on neither batch nor slot.

Shape suffixes (this file): B = rows, one per sequence; V = vocabulary; C =
candidates, the tokens that top-k leaves, in ascending order of score; 1 = a
broadcast dimension.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.philox import philox4x32
from worker.engine.sequence import SamplingParams

_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What the sampler needs to know of one sequence.

    Attributes:
        params: Its sampling parameters.
        prompt_ids: Counted by the repetition penalty only.
        completion_ids: Counted by all penalties; its length is the position of the draw.
        end_ids: Ids that `min_tokens` suppresses.
        choice: Which of a job's completions it is.
    """

    params: SamplingParams
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    end_ids: frozenset[int]
    choice: int = 0


def uniform(seed: int, choice: int, position: int) -> float:
    """Return the draw in [0, 1) of one token: the same whenever and wherever it is asked for.

    Args:
        seed: Any integer; its low 64 bits are Philox's key.
        choice: Which completion of the job, from 0.
        position: Index of the token in the completion, from 0.
    """
    counter = (position & _WORD, position >> 32 & _WORD, choice & _WORD, 0)
    high, low, _, _ = philox4x32(counter, (seed & _WORD, seed >> 32 & _WORD))
    return float((high << 32 | low) >> 11) * 2.0**-53


def sample(logits_BV: Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    """Choose the next token of every row by its own parameters.

    This operation will not modify the logits.

    Args:
        logits_BV: Finite scores, any float dtype and device.
        rows: One per row of the logits, in order.

    Returns:
        One token id per row.
    """
    assert len(logits_BV) == len(rows)
    scores_BV = penalize(logits_BV, rows)
    token_ids_B = scores_BV.argmax(dim=-1)
    drawn = [index for index, row in enumerate(rows) if not row.params.is_greedy]
    if drawn:
        draws = [
            uniform(row.params.seed, row.choice, len(row.completion_ids))
            for row in (rows[index] for index in drawn)
        ]
        probs_BV = probabilities(scores_BV[drawn], [rows[index].params for index in drawn])
        uniform_B = torch.tensor(draws, dtype=torch.float64, device=probs_BV.device)
        token_ids_B[drawn] = draw(probs_BV, uniform_B)
    return [int(token_id) for token_id in token_ids_B.tolist()]


def penalize(logits_BV: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Apply penalties and `min_tokens` to the rows that ask for them.

    Returns:
        fp32 scores (B, V); a new tensor if anything changed.

    Source:
        Keskar et al. 2019, repetition penalty (arXiv:1909.05858); presence and
        frequency penalties as the OpenAI API documents them.
    """
    scores_BV = logits_BV.float()
    changing = [
        index
        for index, row in enumerate(rows)
        if row.params.has_penalties or len(row.completion_ids) < row.params.min_tokens
    ]
    if changing and scores_BV is logits_BV:
        scores_BV = logits_BV.clone()
    for index in changing:
        _penalize_row(scores_BV[index], rows[index])
    return scores_BV


def _penalize_row(scores_V: Tensor, row: SamplingRow) -> None:
    """Change one row in place."""
    params, device = row.params, scores_V.device
    if params.repetition_penalty != 1:
        seen = torch.tensor([*{*row.prompt_ids, *row.completion_ids}], device=device)
        scores = scores_V[seen]
        factor = params.repetition_penalty
        scores_V[seen] = torch.where(scores < 0, scores * factor, scores / factor)
    if row.completion_ids:
        counts = Counter(row.completion_ids)
        counted = torch.tensor([*counts], device=device)
        count_per_id = torch.tensor([*counts.values()], device=device)
        scores_V[counted] -= params.presence_penalty + params.frequency_penalty * count_per_id
    if len(row.completion_ids) < params.min_tokens and row.end_ids:
        scores_V[torch.tensor([*row.end_ids], device=device)] = -torch.inf


def probabilities(scores_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return the distribution that each row is drawn from.

    Temperature, top-k, top-p and min-p in this order, each with the meaning that
    transformers' logits processors give it: top-k keeps ties with the k-th score,
    top-p keeps the token that crosses it, min-p looks at what top-p left.

    Args:
        scores_BV: fp32, at least one finite score in each row.
        params: One per row, none of them greedy.

    Returns:
        fp32 probabilities (B, V); tokens that a filter dropped have 0.

    Source:
        Holtzman et al. 2020, nucleus sampling (arXiv:1904.09751); Nguyen et al.
        2024, min-p (arXiv:2407.01082).
    """
    temperature_B1 = _column([p.temperature for p in params], scores_BV)
    # Relative to the best score, so that a small temperature cannot overflow.
    scores_BV = (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / temperature_B1
    scores_BV = _apply_top_k(scores_BV, [p.top_k for p in params])
    if any(p.top_p < 1 or p.min_p > 0 for p in params):
        scores_BV = _apply_top_p_and_min_p(scores_BV, params)
    return scores_BV.softmax(dim=-1)


def draw(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Pick the token where each row's cumulative probability passes its draw.

    Tokens stay in vocabulary order: a rounding difference between two batches
    then only moves a border a little, where sorting could swap two tokens.

    Args:
        probs_BV: Non-negative, each row with a positive sum.
        uniform_B: fp64 draws in [0, 1), one per row.

    Returns:
        int64 token ids (B,), each with a positive probability.
    """
    cumulative_BV = probs_BV.double().cumsum(dim=-1)
    # A draw is at most 1 - 2**-53, so even rounded the target stays below the total.
    target_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(-1)


def _apply_top_k(scores_BV: Tensor, top_k: Sequence[int]) -> Tensor:
    vocab_size = scores_BV.shape[-1]
    limits = [min(k or vocab_size, vocab_size) for k in top_k]
    widest = max((k for k in limits if k < vocab_size), default=0)
    if not widest:
        return scores_BV
    best_BC = scores_BV.topk(widest, dim=-1).values
    index_B1 = torch.tensor([min(k, widest) - 1 for k in limits], device=scores_BV.device)[:, None]
    is_off_B1 = torch.tensor([k == vocab_size for k in limits], device=scores_BV.device)[:, None]
    threshold_B1 = best_BC.gather(1, index_B1).masked_fill(is_off_B1, -torch.inf)
    return scores_BV.masked_fill(scores_BV < threshold_B1, -torch.inf)


def _apply_top_p_and_min_p(scores_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    # Only what top-k left is sorted: a sort of the whole vocabulary is the
    # dearest part of a step.
    num_candidates = int(scores_BV.isfinite().sum(dim=-1).max())
    best = scores_BV.topk(num_candidates, dim=-1)
    scores_BC, ids_BC = best.values.flip(-1), best.indices.flip(-1)
    cut_B1 = _column([1 - p.top_p if p.top_p < 1 else -1.0 for p in params], scores_BV)
    dropped_BC = scores_BC.softmax(dim=-1).cumsum(dim=-1) <= cut_B1
    dropped_BC[:, -1] = False
    scores_BC = scores_BC.masked_fill(dropped_BC, -torch.inf)
    min_p_B1 = _column([p.min_p for p in params], scores_BV)
    probs_BC = scores_BC.softmax(dim=-1)
    scores_BC = scores_BC.masked_fill(probs_BC < min_p_B1 * probs_BC[:, -1:], -torch.inf)
    return torch.full_like(scores_BV, -torch.inf).scatter(1, ids_BC, scores_BC)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
