"""Choose how a model is run: over our own cache where its attention can be ours, else over theirs.

Nothing is taken on trust: a model that is set to our attention has to give, on a short probe, the
logits that it gives with transformers' own.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from worker.engine.block_table import BLOCK_TOKENS
from worker.engine.loader import LoadedModel, unusual_layers
from worker.engine.padded_runner import PaddedRunner
from worker.engine.paged_runner import PagedRunner
from worker.engine.runner import Chunk, Runner
from worker.engine.slot_runner import SlotRunner
from worker.engine.state_probe import choose_state_runner

logger = logging.getLogger(__name__)

SLOT_DEVICES = frozenset({"cpu"})
"""Where a sequence lies in one piece, in memory that costs nothing before it is written; elsewhere
it lies in blocks."""

# A chunk from nothing, one after it, and single tokens: each takes another path.
_PROBE = (13, 9, 1, 1)
_MOST_OFF = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})


def choose_runner(
    loaded: LoadedModel, max_batch_size: int, cache_bytes: int | None = None
) -> Runner:
    """Return the fastest runner that is right for the model, and log why it is not the fast one.

    Args:
        loaded: The model; its attention is set.
        max_batch_size: Sequences that may run at once.
        cache_bytes: Memory of the cache at most; None: a whole context for each sequence.

    Raises:
        ModelLoadError: The model keeps a state with which it cannot be continued.
    """
    why_not = _why_not_slots(loaded)
    if why_not is None:
        usual = loaded.model.config._attn_implementation
        loaded.model.set_attn_implementation("eager")
        expected = _usual_logits(loaded)
        runner = _runner_to_probe(loaded, max_batch_size)
        why_not = _why_wrong(loaded, runner, expected)
        if why_not is None:
            return _give_memory(runner, loaded, max_batch_size, cache_bytes)
        loaded.model.set_attn_implementation(usual)
    if unusual_layers(loaded.model):
        most_off = _MOST_OFF[loaded.dtype]
        return choose_state_runner(loaded, max_batch_size, cache_bytes, most_off, why_not)
    logger.warning("%s runs on the slower padded cache: %s", loaded.architecture, why_not)
    return PaddedRunner(loaded, max_batch_size)


def _runner_to_probe(loaded: LoadedModel, max_batch_size: int) -> SlotRunner | PagedRunner:
    if loaded.device.type in SLOT_DEVICES:
        return SlotRunner(loaded, max_batch_size)
    return PagedRunner(loaded, -(-sum(_PROBE) // BLOCK_TOKENS))


def _give_memory(
    runner: SlotRunner | PagedRunner,
    loaded: LoadedModel,
    max_batch_size: int,
    cache_bytes: int | None,
) -> Runner:
    """What a token takes is known now that the probe has run."""
    if isinstance(runner, SlotRunner):
        if cache_bytes is not None:
            runner.limit_memory(cache_bytes)
        return runner
    num_blocks = max_batch_size * -(-loaded.context_length // BLOCK_TOKENS)
    if cache_bytes is not None:
        num_blocks = max(1, min(num_blocks, cache_bytes // runner.block_bytes))
    return PagedRunner(loaded, num_blocks)


def _why_not_slots(loaded: LoadedModel) -> str | None:
    config: Any = loaded.model.config.get_text_config(decoder=True)
    # A layer that shares another one's keys has none of its own, which is no state.
    unusual = unusual_layers(loaded.model) - {"DummyLayer"}
    if unusual:
        return f"it keeps more than keys and values: {', '.join(sorted(unusual))}"
    if not loaded.model._supports_attention_backend:
        return "its attention cannot be replaced"
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if unknown:
        return f"it has layers of an unknown kind: {', '.join(sorted(unknown))}"
    return None


def _probe_ids(loaded: LoadedModel) -> list[int]:
    num_tokens = min(sum(_PROBE), loaded.context_length)
    return [(7 * index + 3) % loaded.vocab_size for index in range(num_tokens)]


@torch.inference_mode()
def _usual_logits(loaded: LoadedModel) -> Tensor:
    ids = torch.tensor([_probe_ids(loaded)], device=loaded.device)
    logits: Tensor = loaded.model(ids, use_cache=False).logits[0]
    return logits.float()


def _why_wrong(
    loaded: LoadedModel, runner: SlotRunner | PagedRunner, expected_TV: Tensor
) -> str | None:
    ids, done, key = _probe_ids(loaded), 0, -1
    runner.place(key, ids)
    try:
        for count in _PROBE:
            chunk = Chunk(key, ids[done : done + count], done)
            if not chunk.token_ids:
                break
            done += len(chunk.token_ids)
            got_V = runner.run([chunk])[0].float()
            off = float((got_V - expected_TV[done - 1]).norm() / expected_TV[done - 1].norm())
            if not off < _MOST_OFF[loaded.dtype]:
                return f"its logits with our attention are off by {off:.0%}"
    except (TypeError, RuntimeError, AttributeError) as error:
        # What a model's code makes of an attention that it does not expect has no common class.
        return f"it does not run with our attention: {error}"
    finally:
        runner.forget(key)
    return _why_windows_differ(loaded, runner)


def _why_windows_differ(loaded: LoadedModel, runner: SlotRunner | PagedRunner) -> str | None:
    """A window longer than the probe shows in no logit: compare what was asked for."""
    config: Any = loaded.model.config.get_text_config(decoder=True)
    for layer, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if kind == "sliding_attention" and runner.windows.get(layer) is None:
            return f"layer {layer} slides a window of which its attention is not told"
    return None
