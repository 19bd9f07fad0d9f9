"""Run a model over the tokens of several sequences, in one row without padding.

Knows nothing of the cache: the step that it hands to the attention does.

Shape suffixes (this file): T = tokens of a step; N = rows, the wanted ones of them; V = vocabulary;
H = query heads; K = key-value heads; D = head size.
"""

import inspect
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from worker.engine import attention
from worker.engine.loader import LoadedModel
from worker.engine.runner import Chunk


class PackedForward:
    """The forward of one model whose attention is ours."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Set the model to our attention.

        Args:
            loaded: The model to run.
        """
        self._model = loaded.model
        self._device = loaded.device
        self._accepted = frozenset(inspect.signature(loaded.model.forward).parameters)
        loaded.model.set_attn_implementation(attention.NAME)

    def __call__(self, chunks: Sequence[Chunk], step: attention.Step) -> tuple[Tensor, list[int]]:
        """Run the chunks one after another in a row.

        Args:
            chunks: At least one.
            step: Attends to their tokens, in this order.

        Returns:
            Logits (N, V) of the wanted tokens of each chunk; see `runner.Runner.run`. And of each
            chunk how many of its first tokens have keys and values that are numbers, which may be
            taken for the same tokens of other sequences.
        """
        watched = _Watched(step)
        ids_T = torch.tensor([token for chunk in chunks for token in chunk.token_ids])
        positions_T = torch.cat(
            [torch.arange(chunk.start, chunk.start + len(chunk.token_ids)) for chunk in chunks]
        )
        ends = accumulate(len(chunk.token_ids) for chunk in chunks)
        wanted = [
            row
            for end, chunk in zip(ends, chunks, strict=True)
            for row in range(end - chunk.num_logits, end)
        ]
        wanted_N = torch.tensor(wanted, device=self._device)
        inputs = {"position_ids": positions_T[None].to(self._device), "logits_to_keep": wanted_N}
        accepted = {name: value for name, value in inputs.items() if name in self._accepted}
        output = self._model(
            input_ids=ids_T[None].to(self._device), **accepted, use_cache=False, baton=watched
        )
        logits_NV: Tensor = output.logits[0]
        if "logits_to_keep" not in accepted:
            logits_NV = logits_NV[wanted_N]
        return logits_NV, _count_sound(chunks, watched.broken_tokens())


class _Watched:
    """A step, and which of its tokens turned into something that is not a number.

    A token sees itself: once one of its keys or values is not a number, nothing that later layers
    make of it is one. So the last layer tells of all. That is needed because a weight of zero
    times a value that is not a number is none either: within one chunk a token may spoil those
    before it, to which it is masked.
    """

    def __init__(self, step: attention.Step) -> None:
        self._step = step
        self._last: tuple[Tensor, ...] = ()

    def attend(
        self,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        rules: attention.Rules,
    ) -> Tensor:
        """Attend as the step does; see `attention.Step.attend`."""
        self._last = (query_HTD, key_KTD, value_KTD)
        return self._step.attend(layer, query_HTD, key_KTD, value_KTD, rules)

    def broken_tokens(self) -> list[int]:
        """Return the indices among T of the tokens that are not numbers, in order."""
        # A sum is finite only where all of its terms are.
        sums_T = [tensor.sum((0, 2), dtype=torch.float32) for tensor in self._last]
        is_finite_T = torch.isfinite(torch.stack(sums_T).sum(0))
        if bool(is_finite_T.all()):
            return []
        return [int(token) for token in (~is_finite_T).nonzero()]


def _count_sound(chunks: Sequence[Chunk], broken_tokens: Sequence[int]) -> list[int]:
    """Return of each chunk how many of its tokens come before the first one that is broken."""
    nums_sound, start = [], 0
    for chunk in chunks:
        end = start + len(chunk.token_ids)
        first = next((token for token in broken_tokens if start <= token < end), end)
        nums_sound.append(first - start)
        start = end
    return nums_sound
