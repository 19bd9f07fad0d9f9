"""First token of a prompt of 1,000 tokens whose first 960 another prompt left in the cache.

`python -m bench.prefix_cache [MODEL]`: a path or hub name; by default the bundled model.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.measure import Comparison, alternate
from worker.backends.transformers import ONE_THREAD_BELOW
from worker.engine.engine import Engine
from worker.engine.loader import load_model
from worker.engine.sequence import Request, SamplingParams

PROMPT_TOKENS = 1000
SHARED_TOKENS = 960
BUNDLED = Path(__file__).resolve().parents[1] / "models" / "baton-toy"


def run(model: str = str(BUNDLED)) -> Comparison:
    """Measure in turn: a prompt that begins as the one before it, and one that begins anew."""
    loaded = load_model(model, device="cpu", dtype="auto")
    if loaded.num_parameters < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    engine = Engine(loaded, max_batch_size=4)
    rng, numbers = random.Random(0), itertools.count()

    def draw(num_tokens: int) -> tuple[int, ...]:
        return tuple(rng.randrange(loaded.vocab_size) for _ in range(num_tokens))

    def first_token_s(prompt_ids: tuple[int, ...]) -> float:
        params = SamplingParams(max_tokens=1, temperature=0)
        engine.add(Request(str(next(numbers)), prompt_ids, params))
        while True:
            for output in engine.step():
                assert output.timings is not None, output.error
                assert output.timings.first_token_s is not None, output.error
                return output.timings.first_token_s

    def seconds(is_shared: bool) -> Callable[[], float]:
        def measure() -> float:
            beginning = draw(SHARED_TOKENS)
            if is_shared:
                first_token_s(beginning + draw(PROMPT_TOKENS - SHARED_TOKENS))
            return first_token_s(beginning + draw(PROMPT_TOKENS - SHARED_TOKENS))

        return measure

    what = f"first token, {SHARED_TOKENS} of {PROMPT_TOKENS} prompt tokens cached"
    return alternate(what, seconds(True), "none cached", seconds(False), unit="s", rounds=7)


if __name__ == "__main__":
    print(run(*sys.argv[1:]).row())
