"""Find out what a model with a state computes rightly, before it serves anything.

Families differ: the code of some forgets the state when several tokens follow it, or mixes up the
rows of a batch, and nothing in a model says so. So each is tried, against transformers' own
`generate`. Knows nothing of requests.

Shape suffixes (this file): T = tokens; V = vocabulary.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from worker.engine.errors import ModelLoadError
from worker.engine.loader import LoadedModel
from worker.engine.runner import Chunk
from worker.engine.state_cache import can_join, num_bytes
from worker.engine.state_runner import Abilities, StateRunner

logger = logging.getLogger(__name__)

_CUT, _NUM_PROMPT, _NUM_STEPS = 13, 22, 4
_GROSSLY_OFF = 0.5
"""Share of the logits' norm by which `generate` may differ from the model's own forward.

Where steps clamp what a whole forward does not, or the other way round, they differ a little, and
such a model is served as transformers does; half of the norm is another text."""

# What a model's code makes of a cache that it does not expect has no common class.
_FAILURES = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def choose_state_runner(
    loaded: LoadedModel, max_batch_size: int, cache_bytes: int | None, most_off: float, why: str
) -> StateRunner:
    """Return the runner for a model with a state, set to what the model can do, and log it.

    Args:
        loaded: The model.
        max_batch_size: Sequences that may run at once.
        cache_bytes: Memory of the cache at most; None: a whole context for each sequence.
        most_off: Share of the logits' norm that counts as rounding in the model's dtype.
        why: Why no faster runner is right for it; for the log.

    Raises:
        ModelLoadError: Not even one sequence alone gives what transformers gives.
    """
    try:
        abilities = _Probe(loaded, most_off).find_abilities()
    except _FAILURES as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelLoadError(f"{loaded.architecture} cannot be continued: {reason}") from error
    logger.warning(
        "%s runs on the slower path of a cache for each sequence: %s; "
        "sequences are continued %s, a prompt's later chunks %s",
        loaded.architecture,
        why,
        "together" if abilities.can_batch else "one after another",
        "follow the earlier ones" if abilities.can_extend else "are read with the earlier ones",
    )
    return StateRunner(loaded, max_batch_size, abilities, cache_bytes)


class _Probe:
    """One model, what `generate` makes of a short prompt, and tries to do the same."""

    def __init__(self, loaded: LoadedModel, most_off: float) -> None:
        """Run `generate` once.

        Args:
            loaded: The model.
            most_off: Share of the logits' norm that counts as rounding.
        """
        self._loaded = loaded
        self._model: Any = loaded.model
        self._most_off = most_off
        num_prompt = min(_NUM_PROMPT, loaded.context_length - _NUM_STEPS)
        self._cut = min(_CUT, num_prompt - 2)
        self._prompt = [(7 * index + 3) % loaded.vocab_size for index in range(num_prompt)]
        self._tokens, self._expected_TV = self._generate()

    def find_abilities(self) -> Abilities:
        """Try everything.

        Raises:
            ValueError: One sequence alone, its prompt read at once, is wrong.
        """
        num_prompt, cut = len(self._prompt), self._cut
        off = self._off_by([num_prompt], Abilities(False, False, False))
        if not off < self._most_off:
            raise ValueError(f"its logits are off by {off:.0%} from those of `generate`")
        self._compare_generate_with_the_forward()
        state_bytes, token_bytes = self._measure()
        return Abilities(
            can_extend=self._is_right([cut, num_prompt - cut]),
            can_step=self._is_right([cut] + [1] * (num_prompt - cut)),
            can_batch=self._can_batch(),
            state_bytes=state_bytes,
            token_bytes=token_bytes,
        )

    @torch.inference_mode()
    def _generate(self) -> tuple[list[int], Tensor]:
        """Return the tokens that `generate` adds, and the logits from which it took each."""
        ids = torch.tensor([self._prompt], device=self._loaded.device)
        how = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=_NUM_STEPS,
            min_new_tokens=_NUM_STEPS,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        output = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=how
        )
        tokens: list[int] = output.sequences[0, len(self._prompt) :].tolist()
        return tokens, torch.cat(output.logits).float()

    @torch.inference_mode()
    def _compare_generate_with_the_forward(self) -> None:
        ids = torch.tensor([self._prompt + self._tokens[:-1]], device=self._loaded.device)
        whole_TV = self._model(input_ids=ids, use_cache=False).logits[0, -_NUM_STEPS:].float()
        off = _off(self._expected_TV, whole_TV)
        if not off < _GROSSLY_OFF:
            raise ValueError(f"transformers' own `generate` is off by {off:.0%} from its forward")
        if not off < self._most_off:
            logger.warning(
                "%s: the logits of transformers' `generate`, which are served, are off by %.1f%% "
                "from those of the model's forward over a whole text",
                self._loaded.architecture,
                100 * off,
            )

    def _off_by(self, cuts: Sequence[int], abilities: Abilities) -> float:
        """Read the prompt in chunks of these sizes, then `generate`'s tokens; compare logits."""
        runner = StateRunner(self._loaded, 1, abilities)
        runner.place(0, self._prompt)
        done, rows = 0, []
        for count in cuts:
            rows = [runner.run([Chunk(0, self._prompt[done : done + count], done)])]
            done += count
        for token_id in self._tokens[:-1]:
            rows.append(runner.run([Chunk(0, [token_id], done)]))
            done += 1
        return _off(torch.cat(rows).float(), self._expected_TV)

    def _is_right(self, cuts: Sequence[int]) -> bool:
        try:
            return self._off_by(cuts, Abilities(True, True, False)) < self._most_off
        except _FAILURES:
            return False

    def _can_batch(self) -> bool:
        """Whether two sequences of different lengths side by side are each as they are alone."""
        alone, both = Abilities(False, False, False), Abilities(False, False, True)
        prompts = [self._prompt, self._prompt[4::-1]]
        # A short prompt that fails alone is no matter of batches: it goes to the caller.
        expected = [self._steps(alone, [ids])[0] for ids in prompts]
        if not can_join(self._cache_of(self._prompt)):
            return False
        try:
            got = self._steps(both, prompts)
            offs = [_off(one, other) for one, other in zip(got, expected, strict=True)]
            return max(offs) < self._most_off
        except _FAILURES:
            return False

    def _steps(self, abilities: Abilities, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the logits (T, V) of each sequence while all read the same tokens."""
        runner = StateRunner(self._loaded, len(prompts), abilities)
        for key, ids in enumerate(prompts):
            runner.place(key, ids)
            runner.run([Chunk(key, ids, 0)])
        rows: list[list[Tensor]] = [[] for _ in prompts]
        for step, token_id in enumerate(self._tokens):
            keys = range(len(prompts))[:: -1 if step % 2 else 1]  # in either order
            chunks = [Chunk(key, [token_id], len(prompts[key]) + step) for key in keys]
            for key, row_V in zip(keys, runner.run(chunks), strict=True):
                rows[key].append(row_V.float())
        return [torch.stack(of_one) for of_one in rows]

    def _measure(self) -> tuple[int, int]:
        """Return the memory of a sequence, however long, and that of each of its tokens."""
        lengths = (self._cut, len(self._prompt))
        sizes = [num_bytes(self._cache_of(self._prompt[:length])) for length in lengths]
        token_bytes = max(0, sizes[1] - sizes[0]) // (lengths[1] - lengths[0])
        return max(0, sizes[0] - lengths[0] * token_bytes), token_bytes

    def _cache_of(self, ids: Sequence[int]) -> Any:
        """Read a prompt at once and return its cache."""
        runner = StateRunner(self._loaded, 1, Abilities(False, False, False))
        runner.place(0, ids)
        runner.run([Chunk(0, ids, 0)])
        return runner.cache_of(0)


def _off(got_TV: Tensor, expected_TV: Tensor) -> float:
    """Return by which share of its norm the worst row differs; not a number where one has none."""
    return float(((got_TV - expected_TV).norm(dim=-1) / expected_TV.norm(dim=-1)).max())
