"""Run a model over the tokens of several sequences, in one row without padding.

Knows nothing of the cache: the step that it hands to the attention does.

Shape suffixes (this file): T = tokens of a step; N = rows, the wanted ones of them; V = vocabulary.
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

    def __call__(self, chunks: Sequence[Chunk], step: attention.Step) -> Tensor:
        """Run the chunks one after another in a row.

        Args:
            chunks: At least one.
            step: Attends to their tokens, in this order.

        Returns:
            Logits (N, V) of the wanted tokens of each chunk; see `runner.Runner.run`.
        """
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
            input_ids=ids_T[None].to(self._device), **accepted, use_cache=False, baton=step
        )
        logits_NV: Tensor = output.logits[0]
        return logits_NV if "logits_to_keep" in accepted else logits_NV[wanted_N]
