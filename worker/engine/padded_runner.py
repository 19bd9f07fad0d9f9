"""The runner for every other model: one padded batch over transformers' own cache.

Shape suffixes (this file): B = rows, one per sequence; T = new tokens a row;
L = cached columns; V = vocabulary.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine import attention
from worker.engine.loader import LoadedModel
from worker.engine.padded_cache import PaddedCache, merge
from worker.engine.runner import CacheStats, Chunk


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences whose rows share one padded cache."""

    keys: tuple[int, ...]
    cache: PaddedCache

    def only(self, keys: Collection[int]) -> "_Group":
        """Return the part of the group that is in `keys`; itself if that is all."""
        rows = [row for row, key in enumerate(self.keys) if key in keys]
        if len(rows) == len(self.keys):
            return self
        return _Group(tuple(self.keys[row] for row in rows), self.cache.take(rows))

    def without(self, keys: Collection[int]) -> "_Group":
        """Return the part of the group that is not in `keys`."""
        return self.only(set(self.keys) - set(keys))


class PaddedRunner:
    """One left-padded batch for all that decode, and a cache apart for each prefill.

    Chunks of one token run together as one batch; longer ones run alone, since
    padding inside a batch of prompts costs more than it saves here. A sequence
    joins the batch with its first chunk of one token.
    """

    def __init__(self, loaded: LoadedModel, max_batch_size: int) -> None:
        """Start with an empty cache.

        Args:
            loaded: The model to run; only this runner's thread may run it.
            max_batch_size: Sequences that run at once at most.
        """
        if loaded.model.config._attn_implementation == attention.NAME:
            loaded.model.set_attn_implementation("eager")
        self._model = loaded.model
        self._device = loaded.device
        self._accepted = frozenset(inspect.signature(loaded.model.forward).parameters)
        self._groups: tuple[_Group, ...] = ()
        self._max_num_rows = max_batch_size
        self._context_length = loaded.context_length
        self._num_looked_up = 0

    @property
    def max_sequence_tokens(self) -> int:
        """The context; see `Runner.max_sequence_tokens`."""
        return self._context_length

    @property
    def stats(self) -> CacheStats:
        """The cache as it is now; see `Runner.stats`. Padding is not counted."""
        used = sum(sum(group.cache.lengths) for group in self._groups)
        return CacheStats(
            capacity_tokens=self._max_num_rows * self._context_length,
            used_tokens=used,
            reusable_tokens=0,
            num_entries=sum(len(group.cache.lengths) for group in self._groups),
            size_bytes=sum(group.cache.num_bytes for group in self._groups),
            queries=self._num_looked_up,
            hits=0,
            evictions=0,
        )

    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> int:
        """Nothing is kept of ended sequences, and room is not limited; see `Runner.place`."""
        self._num_looked_up += len(token_ids)
        return 0

    def reserve(self, key: int, num_tokens: int) -> bool:
        """Room is not limited; see `Runner.reserve`."""
        return True

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run the chunks; see `Runner.run`."""
        chunk_of = {chunk.key: chunk for chunk in chunks}
        singles = [c.key for c in chunks if len(c.token_ids) == 1 and c.start]
        batches = [[key] for key in chunk_of if key not in set(singles)]
        if singles:
            batches.insert(0, singles)
        groups = self._groups
        logits: dict[int, Tensor] = {}
        for keys in batches:
            group, groups = _gather(groups, keys)
            _check_starts(group, chunk_of)
            ids_BT = torch.tensor([list(chunk_of[k].token_ids) for k in group.keys])
            num_logits = max(chunk_of[key].num_logits for key in group.keys)
            logits_BTV, cache = self._forward(group.cache, ids_BT.to(self._device), num_logits)
            groups = (*groups, _Group(group.keys, cache))
            for key, logits_TV in zip(group.keys, logits_BTV, strict=True):
                logits[key] = logits_TV[-chunk_of[key].num_logits :]
        # Only now: a forward that raised has changed nothing.
        self._groups = groups
        return torch.cat([logits[chunk.key] for chunk in chunks])

    @torch.inference_mode()
    def free(self, keys: Collection[int]) -> None:
        """Drop the rows of these sequences; see `Runner.free`."""
        left = (group.without(keys) for group in self._groups)
        self._groups = tuple(group for group in left if group.keys)

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that the books agree; see `Runner.check_integrity`."""
        held = [
            (key, length)
            for group in self._groups
            for key, length in zip(group.keys, group.cache.lengths, strict=True)
        ]
        assert len(held) == len(dict(held)), f"a sequence is cached twice: {held}"
        assert dict(held) == dict(lengths), f"cached {dict(held)}, expected {dict(lengths)}"
        for group in self._groups:
            group.cache.check_integrity()

    def _forward(
        self, cache: PaddedCache, ids_BT: Tensor, num_logits: int
    ) -> tuple[Tensor, PaddedCache]:
        num_new = ids_BT.shape[1]
        lengths_B1 = torch.tensor(cache.lengths, device=self._device)[:, None]
        columns = torch.arange(cache.num_columns + num_new, device=self._device)
        dynamic = cache.to_dynamic()
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": (columns >= cache.num_columns - lengths_B1).long(),
            "position_ids": lengths_B1 + torch.arange(num_new, device=self._device),
            "logits_to_keep": num_logits,
        }
        accepted = {name: value for name, value in inputs.items() if name in self._accepted}
        output = self._model(**accepted, past_key_values=dynamic, use_cache=True)
        return output.logits[:, -num_logits:], cache.grown(dynamic, num_new)


def _gather(groups: Sequence[_Group], keys: Sequence[int]) -> tuple[_Group, tuple[_Group, ...]]:
    """Take sequences out of their groups into one; new keys get an empty row.

    Returns:
        The group of exactly these keys, not necessarily in order, and the groups left.
    """
    wanted = set(keys)
    parts = [part for group in groups if (part := group.only(wanted)).keys]
    left = tuple(part for group in groups if (part := group.without(wanted)).keys)
    found = {key for part in parts for key in part.keys}
    parts += [_Group((key,), PaddedCache(lengths=(0,))) for key in keys if key not in found]
    merged = merge([part.cache for part in parts])
    return _Group(tuple(key for part in parts for key in part.keys), merged), left


def _check_starts(group: _Group, chunk_of: Mapping[int, Chunk]) -> None:
    for key, length in zip(group.keys, group.cache.lengths, strict=True):
        assert chunk_of[key].start == length, f"sequence {key}: {length} cached tokens"
