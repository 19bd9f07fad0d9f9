"""The runner for models with a state: recurrent ones, and hybrids of these and attention.

Each sequence has a cache of transformers' own. What a family's code can do with it differs, and is
found out by `state_probe`.

Shape suffixes (this file): B = rows, one per sequence; T = new tokens a row; K = wanted tokens a
row; V = vocabulary.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from worker.engine import attention
from worker.engine.loader import LoadedModel
from worker.engine.runner import CacheStats, Chunk
from worker.engine.state_cache import (
    ModuleStates,
    check_row,
    fork,
    join,
    split,
)

STEP_COST_TOKENS = 16
"""Tokens that a forward of many reads in the time of a forward of one, roughly, on any device."""

_CACHE_NAMES = ("past_key_values", "cache_params", "state")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model's code computes rightly, and what a sequence takes.

    Attributes:
        can_extend: Several tokens at once after those that are cached.
        can_step: A prompt's tokens one by one after those that are cached.
        can_batch: The next token of several sequences of different lengths at once.
        state_bytes: Memory of a sequence, however long it is.
        token_bytes: Memory of each of its tokens beside that.
    """

    can_extend: bool
    can_step: bool
    can_batch: bool
    state_bytes: int = 0
    token_bytes: int = 0


@dataclass(slots=True)
class _Sequence:
    """A sequence that was placed.

    Attributes:
        num_placed: Tokens for which there is room in any case.
        token_ids: Those that are cached.
        cache: What the model keeps of them; None before the first.
    """

    num_placed: int
    token_ids: list[int]
    cache: Any = None


class StateRunner:
    """Forward passes over a cache for each sequence; see `runner.Runner`.

    A chunk of a prompt runs alone; the next tokens of sequences run in one batch, where the model
    can. What is written to is always a copy, so that a forward that raises changes nothing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        max_batch_size: int,
        abilities: Abilities,
        cache_bytes: int | None = None,
    ) -> None:
        """Start with an empty cache.

        Args:
            loaded: The model to run; only this runner's thread may run it.
            max_batch_size: Sequences that run at once at most.
            abilities: What the model can do.
            cache_bytes: Memory of all sequences at most; None: a whole context for each.

        Raises:
            ValueError: The model takes no cache.
        """
        if loaded.model.config._attn_implementation == attention.NAME:
            loaded.model.set_attn_implementation("eager")
        self._model: Any = loaded.model
        self._device = loaded.device
        self._accepted = frozenset(inspect.signature(loaded.model.forward).parameters)
        cache_names = [name for name in _CACHE_NAMES if name in self._accepted]
        if not cache_names:
            raise ValueError("its forward takes no cache that this engine knows")
        self._cache_name = cache_names[0]
        self._module_states = ModuleStates(loaded.model)
        self._abilities = abilities
        self._context_length = loaded.context_length
        self._max_num_sequences = max_batch_size
        self._cache_bytes = self._bytes_of([loaded.context_length] * max_batch_size)
        if cache_bytes is not None:
            self._cache_bytes = min(self._cache_bytes, cache_bytes)
        self._sequences: dict[int, _Sequence] = {}
        self._num_looked_up = 0

    @property
    def max_sequence_tokens(self) -> int:
        """The context, or what fits; see `Runner.max_sequence_tokens`."""
        return min(self._context_length, self._tokens_beside(1))

    @property
    def stats(self) -> CacheStats:
        """The cache as it is now; see `Runner.stats`. Nothing is kept of ended sequences."""
        lengths = [len(sequence.token_ids) for sequence in list(self._sequences.values())]
        whole = self._max_num_sequences * self._context_length
        return CacheStats(
            capacity_tokens=min(whole, self._tokens_beside(max(1, len(lengths)))),
            used_tokens=sum(lengths),
            reusable_tokens=0,
            num_entries=sum(map(bool, lengths)),
            size_bytes=self._bytes_of([length for length in lengths if length]),
            queries=self._num_looked_up,
            hits=0,
            evictions=0,
        )

    def place(self, key: int, token_ids: Sequence[int], *, reuse: bool = True) -> int | None:
        """Take a sequence in where it fits beside the others; see `Runner.place`."""
        assert key not in self._sequences, f"sequence {key} is placed twice"
        if self._sequences and not self._fits({key: len(token_ids)}):
            return None
        self._sequences[key] = _Sequence(len(token_ids), [])
        self._num_looked_up += len(token_ids)
        return 0

    def reserve(self, key: int, num_tokens: int) -> bool:
        """Look whether a sequence may grow; see `Runner.reserve`. One alone always may."""
        num_then = len(self._sequences[key].token_ids) + num_tokens
        return len(self._sequences) == 1 or self._fits({key: num_then})

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run the chunks; see `Runner.run`."""
        for chunk in chunks:
            length = len(self._sequences[chunk.key].token_ids)
            assert chunk.start == length, f"sequence {chunk.key}: {length} cached tokens"
        batch = [c for c in chunks if c.start and self._is_step(c)]
        if len(batch) == 1 or not self._abilities.can_batch:
            batch = []
        results = self._run_batch(batch) if batch else {}
        for chunk in chunks:
            if chunk.key not in results:
                results[chunk.key] = self._run_alone(chunk)
        # Only now: a forward that raised has changed nothing.
        for chunk in chunks:
            sequence = self._sequences[chunk.key]
            sequence.token_ids += chunk.token_ids
            sequence.cache = results[chunk.key][1]
        return torch.cat([results[chunk.key][0] for chunk in chunks])

    def free(self, keys: Collection[int]) -> None:
        """Drop the caches of these sequences; see `Runner.free`."""
        for key in keys:
            self._sequences.pop(key, None)

    def cache_of(self, key: int) -> Any:
        """Return what the model keeps of a sequence; to look at only."""
        return self._sequences[key].cache

    def check_integrity(self, lengths: Mapping[int, int]) -> None:
        """Assert that the books agree; see `Runner.check_integrity`."""
        held = {key: len(s.token_ids) for key, s in self._sequences.items() if s.token_ids}
        assert held == dict(lengths), f"cached {held}, expected {dict(lengths)}"
        for sequence in self._sequences.values():
            assert (sequence.cache is None) == (not sequence.token_ids)
            if sequence.cache is not None:
                check_row(sequence.cache, len(sequence.token_ids))
        assert len(self._sequences) <= 1 or self._fits({}), "more is held than there is room for"

    def _bytes_of(self, lengths: Collection[int]) -> int:
        abilities = self._abilities
        return len(lengths) * abilities.state_bytes + sum(lengths) * abilities.token_bytes

    def _tokens_beside(self, num_states: int) -> int:
        """Return how many tokens fit beside the states of so many sequences; at least one."""
        if not self._abilities.token_bytes:
            return self._context_length * num_states
        left = self._cache_bytes - num_states * self._abilities.state_bytes
        return max(1, left // self._abilities.token_bytes)

    def _fits(self, changed: Mapping[int, int]) -> bool:
        """Whether all sequences have room, some of them with a length that they do not have yet."""
        lengths = {k: max(s.num_placed, len(s.token_ids)) for k, s in self._sequences.items()}
        lengths |= {key: max(lengths.get(key, 0), length) for key, length in changed.items()}
        if len(lengths) > self._max_num_sequences:
            return False
        return self._bytes_of(lengths.values()) <= self._cache_bytes

    def _is_step(self, chunk: Chunk) -> bool:
        """Whether a chunk is one token that may run as such: of the completion, or of any text."""
        is_new = chunk.start >= self._sequences[chunk.key].num_placed
        return len(chunk.token_ids) == 1 and (is_new or self._abilities.can_step)

    def _run_batch(self, chunks: Sequence[Chunk]) -> dict[int, tuple[Tensor, Any]]:
        lengths = [chunk.start + 1 for chunk in chunks]
        cache = join([self._sequences[chunk.key].cache for chunk in chunks])
        logits_BKV, cache = self._forward(cache, [chunk.token_ids for chunk in chunks], lengths, 1)
        rows = zip(logits_BKV, split(cache, lengths), strict=True)
        return {chunk.key: row for chunk, row in zip(chunks, rows, strict=True)}

    def _run_alone(self, chunk: Chunk) -> tuple[Tensor, Any]:
        sequence, ids = self._sequences[chunk.key], chunk.token_ids
        keep = chunk.num_logits
        can_follow = self._abilities.can_extend if len(ids) > 1 else self._is_step(chunk)
        if sequence.cache is None or can_follow:
            cache = None if sequence.cache is None else fork(sequence.cache)
            return self._continue(cache, ids, chunk.start, keep)
        # Some families' code forgets the state before several tokens. Their text is read again from
        # its start as long as that costs less than to read the new tokens one by one.
        whole = [*sequence.token_ids, *ids]
        if not self._abilities.can_step or len(whole) <= STEP_COST_TOKENS * len(ids):
            return self._continue(None, whole, 0, keep)
        return self._step(fork(sequence.cache), ids, chunk.start, keep)

    def _step(self, cache: Any, ids: Sequence[int], start: int, keep: int) -> tuple[Tensor, Any]:
        rows = []
        for index, token_id in enumerate(ids):
            row_1V, cache = self._continue(cache, [token_id], start + index, 1)
            rows.append(row_1V)
        return torch.cat(rows[len(rows) - keep :] or [rows[0][:0]]), cache

    def _continue(
        self, cache: Any, ids: Sequence[int], start: int, keep: int
    ) -> tuple[Tensor, Any]:
        """Run one sequence's tokens after a cache that may be written to."""
        logits_1KV, cache = self._forward(cache, [ids], [start + len(ids)], max(1, keep))
        return logits_1KV[0, logits_1KV.shape[1] - keep :], cache

    def _forward(
        self, cache: Any, ids: Sequence[Sequence[int]], lengths: Sequence[int], keep: int
    ) -> tuple[Tensor, Any]:
        """Run the model.

        Args:
            cache: A row for each sequence, written to; None: nothing is cached of the one there is.
            ids: New tokens of each, as many of one as of the other.
            lengths: Tokens of each, the new ones counted.
            keep: Of how many of the last tokens the logits are wanted, at least 1.

        Returns:
            Logits (B, K, V) and the cache.
        """
        ids_BT = torch.tensor([list(row) for row in ids], device=self._device)
        lengths_B1 = torch.tensor(lengths, device=self._device)[:, None]
        num_new = ids_BT.shape[1]
        inputs: dict[str, Any] = {
            "position_ids": lengths_B1 - num_new + torch.arange(num_new, device=self._device),
            "logits_to_keep": keep,
        }
        if self._cache_name == "past_key_values":
            columns = torch.arange(max(lengths), device=self._device)
            inputs["attention_mask"] = (columns >= max(lengths) - lengths_B1).long()
        inputs = {name: value for name, value in inputs.items() if name in self._accepted}
        if cache is None:
            cache = self._new_cache()
        if cache is not None:
            self._module_states.load(cache)
        inputs[self._cache_name] = cache
        output = self._model(input_ids=ids_BT, **inputs, use_cache=True)
        if cache is None or type(cache) is not DynamicCache:
            cache = getattr(output, self._cache_name)
        self._module_states.save(cache)
        return output.logits[:, -keep:], cache

    def _new_cache(self) -> DynamicCache | None:
        """Return an empty cache, as `generate` would, or None where the model makes its own."""
        if not self._model._supports_default_dynamic_cache():
            return None
        return DynamicCache(config=self._model.config.get_text_config(decoder=True))
