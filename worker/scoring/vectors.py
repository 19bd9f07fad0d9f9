"""From prompts to their vectors, for training and for scoring without a service.

A vector does not depend on what else is in its batch, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.scorers import prompt_ids
from worker.engine.embedder import Embedder

MOST_BATCH_TOKENS = 16_384
"""Of one batch, whatever number of prompts was asked for."""


def prompt_vectors(
    embedder: Embedder,
    prompts: Sequence[str],
    *,
    batch_size: int,
    progress: Callable[[int], object] = lambda num_done: None,
) -> Tensor:
    """Return the vectors of prompts.

    Args:
        embedder: A loaded encoder.
        prompts: At least one; long ones are cut, see `common.scorers.prompt_ids`.
        batch_size: Prompts that run together, at most.
        progress: Called with the number of prompts of each batch that is done.

    Returns:
        fp32 of shape (P, D), on the CPU.

    Raises:
        InvalidRequestError: A prompt has no token.
    """
    tokenizer = embedder.tokenizer.backend_tokenizer
    rows = prompt_ids(tokenizer, prompts, embedder.context_length)
    vectors_PD = torch.empty(len(rows), embedder.size)
    for batch in _batches([len(row) for row in rows], batch_size):
        vectors_PD[batch] = embedder.embed([rows[index] for index in batch])
        progress(len(batch))
    return vectors_PD


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Divide prompts, by their index and the longest first, so that little is padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # What comes is at most as long as the first of its batch.
        if (
            batches
            and len(batches[-1]) < batch_size
            and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= MOST_BATCH_TOKENS
        ):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
