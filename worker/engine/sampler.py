"""Turn one row of logits per sequence into one token id per sequence.

Pure functions: no state, no sequence ids, no KV cache. Randomness enters only
through `uniform`, so an outcome depends on neither batch nor slot.

Shape suffixes (this file): B = rows, one per sequence; V = vocabulary; M = the
tokens that are looked at, in ascending order of id.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from worker.engine.filters import shortlist, weights
from worker.engine.philox import philox4x32
from worker.engine.sequence import SamplingParams

_WORD = 0xFFFFFFFF

NUMBERS_AT_ONCE = 2**18
"""On a CPU what is computed over a whole vocabulary stays in its cache."""


@dataclass(frozen=True)
class SamplingRow:
    """What the sampler needs to know of one sequence; it serves for all of its tokens.

    Attributes:
        params: Its sampling parameters.
        prompt_ids: Counted by the repetition penalty only.
        completion_ids: Counted by all penalties; its length is the position of the draw. The
            caller's own list, which grows.
        end_ids: Ids that `min_tokens` suppresses.
        choice: Which of a job's completions it is.
    """

    params: SamplingParams
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    end_ids: frozenset[int]
    choice: int = 0

    @property
    def is_short(self) -> bool:
        """Whether `min_tokens` still suppresses an end."""
        return len(self.completion_ids) < self.params.min_tokens and bool(self.end_ids)

    @cached_property
    def suppressed(self) -> Tensor:
        """The end ids, int64."""
        return torch.tensor([*self.end_ids])

    @cached_property
    def read(self) -> Tensor:
        """The prompt's ids, each once, int64."""
        return torch.tensor([*set(self.prompt_ids)], dtype=torch.int64)

    @cached_property
    def bias(self) -> tuple[Tensor, Tensor]:
        """The ids that have a logit bias, int64, and their biases, fp32."""
        ids = torch.tensor([token_id for token_id, _ in self.params.logit_bias])
        biases = [bias for _, bias in self.params.logit_bias]
        # Another model that is being loaded may have changed torch's default dtype, as below.
        return ids, torch.tensor(biases, dtype=torch.float32)


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


def sample(
    logits_BV: Tensor,
    rows: Sequence[SamplingRow],
    allowed: Mapping[int, Tensor] | None = None,
) -> list[int]:
    """Choose the next token of every row by its own parameters.

    This operation will not modify the logits.

    Args:
        logits_BV: Finite scores, any float dtype and device.
        rows: One per row of the logits, in order.
        allowed: For some rows by their index: which tokens may be chosen, bool (V,), at least one
            of them True.

    Returns:
        One token id per row.
    """
    assert len(logits_BV) == len(rows)
    scores_BV = penalize(logits_BV, rows)
    if allowed and scores_BV is logits_BV:
        scores_BV = logits_BV.clone()
    for index, allowed_V in (allowed or {}).items():
        scores_BV[index].masked_fill_(~allowed_V, -torch.inf)
    greedy = [index for index, row in enumerate(rows) if row.params.is_greedy]
    if len(greedy) == len(rows):
        return list(scores_BV.argmax(dim=-1).tolist())
    token_ids = dict(zip(greedy, scores_BV[greedy].argmax(dim=-1).tolist(), strict=True))
    drawn = [index for index in range(len(rows)) if index not in token_ids]
    for part in _outcomes(scores_BV, drawn, [rows[index].params for index in drawn]):
        draws = [_uniform_of(rows[drawn[at]]) for at in part.rows]
        uniform_B = torch.tensor(draws, dtype=torch.float64, device=scores_BV.device)
        index_B = draw(part.weights_BM, uniform_B)
        if part.ids_BM is not None:
            index_B = part.ids_BM.gather(1, index_B[:, None]).squeeze(1)
        token_ids.update(zip((drawn[at] for at in part.rows), index_B.tolist(), strict=True))
    return [token_ids[index] for index in range(len(rows))]


def finite_rows(logits_BV: Tensor) -> list[bool]:
    """Say of each row whether all of its logits are finite."""
    # A finite sum has finite terms only, and takes a fraction of the time.
    is_finite = logits_BV.sum(dim=-1, dtype=torch.float32).isfinite()
    if not is_finite.all():
        is_finite = logits_BV.isfinite().all(dim=-1)
    return list(is_finite.tolist())


def penalize(logits_BV: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Apply penalties, logit biases and `min_tokens`, in this order, where they are asked for.

    Returns:
        fp32 scores (B, V); a new tensor if anything changed.

    Source:
        Keskar et al. 2019, repetition penalty (arXiv:1909.05858); presence and
        frequency penalties and logit biases as the OpenAI API documents them.
    """
    scores_BV = logits_BV.float()
    changing = [
        index
        for index, row in enumerate(rows)
        if row.params.has_penalties or row.params.logit_bias or row.is_short
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
        # An id that is here twice is written twice, with the same score.
        written = torch.tensor(row.completion_ids, dtype=torch.int64)
        seen = torch.cat([row.read, written]).to(device)
        scores = scores_V[seen]
        factor = params.repetition_penalty
        scores_V[seen] = torch.where(scores < 0, scores * factor, scores / factor)
    if row.completion_ids and (params.presence_penalty != 0 or params.frequency_penalty != 0):
        counts = Counter(row.completion_ids)
        counted = torch.tensor([*counts], device=device)
        count_per_id = torch.tensor([*counts.values()], dtype=torch.float32, device=device)
        scores_V[counted] -= params.presence_penalty + params.frequency_penalty * count_per_id
    if params.logit_bias:
        ids, bias = row.bias
        scores_V[ids.to(device)] += bias.to(device)
    if row.is_short:
        ids = row.suppressed.to(device)
        scores_V[ids[ids < len(scores_V)]] = -torch.inf  # a model may name an end that it lacks


def probabilities(scores_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return the distribution that each row is drawn from; see `filters`.

    Args:
        scores_BV: fp32, at least one finite score in each row.
        params: One per row, none of them greedy.

    Returns:
        fp32 probabilities (B, V); tokens that a filter dropped have 0.
    """
    found_BV = torch.zeros_like(scores_BV, dtype=torch.float64)
    for part in _outcomes(scores_BV, range(len(params)), params):
        weights_BM = part.weights_BM.double()
        if part.ids_BM is not None:
            found_BM = found_BV.new_zeros(len(part.rows), found_BV.shape[1])
            weights_BM = found_BM.scatter_add_(1, part.ids_BM, weights_BM)
        found_BV[part.rows] = weights_BM / weights_BM.sum(dim=-1, keepdim=True)
    return found_BV.float()


def draw(weights_BM: Tensor, uniform_B: Tensor) -> Tensor:
    """Pick the token where each row's cumulative weight passes its draw.

    Tokens stay in vocabulary order: a rounding difference between two batches
    then only moves a border a little, where sorting could swap two tokens.

    Args:
        weights_BM: Non-negative, each row with a positive sum.
        uniform_B: fp64 draws in [0, 1), one per row.

    Returns:
        int64 indices (B,), each of a token with a positive weight.
    """
    cumulative_BM = weights_BM.double().cumsum(dim=-1)
    # A draw is at most 1 - 2**-53, so even rounded the target stays below the total.
    target_B1 = uniform_B[:, None] * cumulative_BM[:, -1:]
    return torch.searchsorted(cumulative_BM, target_B1, right=True).squeeze(-1)


def _uniform_of(row: SamplingRow) -> float:
    return uniform(row.params.seed, row.choice, len(row.completion_ids))


@dataclass(frozen=True, slots=True)
class _Part:
    """What some of the rows are drawn from.

    Attributes:
        rows: Their places among those that are drawn.
        weights_BM: How likely each token is, up to a factor of its row's own.
        ids_BM: Which tokens these are; None: the whole vocabulary, in order.
    """

    rows: list[int]
    weights_BM: Tensor
    ids_BM: Tensor | None = None


def _outcomes(
    scores_BV: Tensor, drawn: Sequence[int], params: Sequence[SamplingParams]
) -> Iterator[_Part]:
    """Tell what the rows at `drawn` may give, each in the way that costs it least."""
    filtered = [at for at, p in enumerate(params) if p.has_filters]
    wide = [at for at, p in enumerate(params) if not p.has_filters]
    if filtered:
        scores = _take(scores_BV, [drawn[at] for at in filtered])
        ids_BC, weights_BC, is_all = shortlist(scores, [params[at] for at in filtered])
        inner = [index for index, whole in enumerate(is_all) if whole]
        yield _Part([filtered[index] for index in inner], weights_BC[inner], ids_BC[inner])
        wide += [at for at, whole in zip(filtered, is_all, strict=True) if not whole]
    step = len(wide) or 1
    if scores_BV.device.type == "cpu":
        step = max(1, NUMBERS_AT_ONCE // scores_BV.shape[1])
    for start in range(0, len(wide), step):
        rows = wide[start : start + step]
        scores = _take(scores_BV, [drawn[at] for at in rows])
        yield _Part(rows, weights(scores, [params[at] for at in rows]))


def _take(scores_BV: Tensor, rows: list[int]) -> Tensor:
    return scores_BV if rows == [*range(len(scores_BV))] else scores_BV[rows]
