"""The systems that `bench.engine` compares, each behind the same call.

`run(prompts, num_new)` answers all prompts greedily, at once where the system can, and returns the
times (of `time.perf_counter`) at which each prompt's new tokens were there.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    StoppingCriteria,
)

from worker.engine.engine import Engine
from worker.engine.loader import load_model
from worker.engine.sequence import Request, SamplingParams

Prompts = Sequence[Sequence[int]]
Stamps = list[list[float]]

MAX_REQUESTS = 32


class System(Protocol):
    """Something that answers prompts."""

    name: str

    def run(self, prompts: Prompts, num_new: int) -> Stamps:
        """Answer all prompts; see the module."""
        ...


class Ours:
    """The engine, with its scheduler, its sampler and its text."""

    name = "ours"

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        loaded = load_model(str(checkpoint), device="cpu", dtype=dtype)
        self._engine = Engine(loaded, max_batch_size=MAX_REQUESTS)
        self._num_runs = 0

    def run(self, prompts: Prompts, num_new: int) -> Stamps:
        """Answer all prompts; see the module."""
        self._num_runs += 1
        params = SamplingParams(max_tokens=num_new, temperature=0.0, ignore_eos=True)
        stamps: dict[str, list[float]] = {}
        for index, ids in enumerate(prompts):
            name = f"{self._num_runs}.{index}"
            stamps[name] = []
            self._engine.add(Request(name, tuple(ids), params))
        while self._engine.has_work:
            outputs = self._engine.step()
            now = time.perf_counter()
            for output in outputs:
                assert output.error is None, output.error
                stamps[output.request_id] += [now] * len(output.token_ids)
        return list(stamps.values())


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """Never stops anything; notes when it was asked, which is once a token."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.stamps.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Generate:
    """transformers' `generate`, all prompts as one batch; of one length, so none is padded."""

    name = "`generate`"

    def __init__(self, checkpoint: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
        self.model.eval()

    def run(self, prompts: Prompts, num_new: int) -> Stamps:
        """Answer all prompts; see the module."""
        ids, watch = torch.tensor(prompts), _Watch()
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_new,
                min_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=[watch],
            )
        return [watch.stamps] * len(prompts)

    def last_logits(self, prompt: Sequence[int]) -> torch.Tensor:
        """The logits after a prompt, to compare with those of the others."""
        with torch.inference_mode():
            return self.model(torch.tensor([prompt])).logits[0, -1].float()


class ContinuousBatching:
    """transformers' `generate_batch`; without a GPU its only attention beside eager is SDPA."""

    name = "transformers' continuous batching"

    def __init__(self, generate: Generate) -> None:
        self._model = generate.model

    def run(self, prompts: Prompts, num_new: int) -> Stamps:
        """Answer all prompts; see the module."""
        blocks_each = -(-(len(prompts[0]) + num_new) // 256)
        answers = self._model.generate_batch(
            [list(prompt) for prompt in prompts],
            generation_config=GenerationConfig(
                max_new_tokens=num_new, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                # It reads its whole cache through a dense mask, so no more than needed; with less
                # than twice the prompts' own it does not run all of them at once.
                num_blocks=2 * blocks_each * len(prompts) + 1,
                max_batch_tokens=512,
            ),
            record_timestamps=True,
            warmup=False,
        )
        stamps = [answer.timestamps for answer in answers.values()]
        assert [len(times) for times in stamps] == [num_new] * len(prompts), "it left some out"
        return stamps


def missing() -> list[str]:
    """What cannot be measured because it is not installed, a line each."""
    modules = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}
    return [
        f"llama.cpp was left out: {package} is not installed; `pip install 'baton[bench]'`"
        for module, package in modules.items()
        if importlib.util.find_spec(module) is None
    ]
