"""The engine against `generate`, transformers' continuous batching and llama.cpp, on a CPU.

`python -m bench.engine`: one model with random weights for all, prompts of one length, every system
in turn in each round. Prefill counts from the start to the last prompt's first token; decode from
there to the first prompt's last token, while all of them run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from bench import random_model
from bench.bandwidth import Reader
from bench.engine_systems import (
    ContinuousBatching,
    Generate,
    Ours,
    Stamps,
    System,
    missing,
)
from bench.random_model import SHAPES, Shape

PACKAGES = ("torch", "transformers")

LLAMA, GENERATE, CONTINUOUS = "llama.cpp", Generate.name, ContinuousBatching.name
ONE_BY_ONE = "`generate`, one at a time"

GOALS = {
    ("bf16", LLAMA): {1: 1.0, 8: 1.2, 32: 2.0},
    ("int8", LLAMA): {1: 0.95, 8: 1.2},
    ("bf16", ONE_BY_ONE): {1: 1.3, 8: 4.0, 32: 8.0},
}
"""Decode tokens a second, ours / theirs, at least."""

_HEAD = """## The engine

Random weights, greedy, all systems in turn in each round; medians, with the range in brackets.
Prefill: from the start to the last prompt's first token. Decode: from there to the first prompt's
last token, while all of them run. Of the limit: what was read of the weights alone, against the
bandwidth measured in the same rounds. Ours / it: decode, the median of the rounds' ratios."""

BYTES_PER_WEIGHT = {"bf16": 2.0, "int8": 1.0}


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one run."""

    prefill: float
    decode: float


@dataclass
class Results:
    """All runs of one dtype, by system and number of requests, one a round."""

    dtype: str
    shape: Shape
    speeds: dict[tuple[str, int], list[Speed]] = field(default_factory=lambda: defaultdict(list))
    bandwidths: list[float] = field(default_factory=list)

    def decode_ratio(self, against: str, num_requests: int) -> float:
        """The median over the rounds of ours / theirs."""
        # One at a time, any number of requests goes at the speed of one.
        of = 1 if against == ONE_BY_ONE else num_requests
        ours, theirs = self.speeds[Ours.name, num_requests], self.speeds[against, of]
        return statistics.median(a.decode / b.decode for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure and print."""
    print(run(parse()))


def run(options: argparse.Namespace) -> str:
    """Measure every dtype; one text with a table each."""
    torch.set_num_threads(options.threads)
    notes = [_HEAD, *(f"*{line}*" for line in missing())]
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as name:
        random_model.save(shape, Path(name))
        tables = [_table(_measure(d, shape, Path(name), options), options) for d in options.dtype]
    return "\n\n".join([*notes, *tables]) + "\n"


def _measure(dtype: str, shape: Shape, checkpoint: Path, options: argparse.Namespace) -> Results:
    results, reader = Results(dtype, shape), Reader()
    systems = dict(_systems(dtype, checkpoint, options))
    draw = random.Random(random_model.SEED)
    for round_ in range(-1, options.rounds):  # the first one does not count
        results.bandwidths.append(reader.gb_per_s())
        for count, (name, system) in itertools.product(options.requests, systems.items()):
            if (name == ONE_BY_ONE and count > 1) or (name == GENERATE and count == 1):
                continue
            # New ones for every run: nobody shall find them in a cache.
            ids = range(1, shape.vocab)
            prompts = [draw.choices(ids, k=options.prompt_tokens) for _ in range(count)]
            began = time.perf_counter()
            speed = _speed(began, system.run(prompts, options.tokens), options.prompt_tokens)
            if round_ >= 0:
                results.speeds[name, count].append(speed)
                _say(f"{dtype} {round_} {count} {name}: {speed.prefill:.0f} {speed.decode:.1f}")
    return results


def _systems(
    dtype: str, checkpoint: Path, options: argparse.Namespace
) -> Iterator[tuple[str, System]]:
    yield Ours.name, Ours(checkpoint, {"bf16": "bfloat16", "int8": "int8"}[dtype])
    generate = Generate(checkpoint)
    if dtype == "bf16":
        yield ONE_BY_ONE, generate
        yield GENERATE, generate
        if options.continuous:
            yield CONTINUOUS, ContinuousBatching(generate)
    if not missing():
        from bench import gguf_file
        from bench.llama_cpp import LlamaCpp

        path = checkpoint / f"{dtype}.gguf"
        gguf_file.write(checkpoint, path, dtype)
        llama = LlamaCpp(path, num_threads=options.threads)
        prompt = list(range(1, 33))
        theirs = torch.from_numpy(llama.last_logits(prompt))
        likeness = torch.cosine_similarity(generate.last_logits(prompt), theirs, dim=0)
        assert likeness > 0.99, f"llama.cpp computes another model: cosine {likeness:.3f}"
        yield LLAMA, llama


def _speed(began: float, stamps: Stamps, prompt_tokens: int) -> Speed:
    start, end = max(times[0] for times in stamps), min(times[-1] for times in stamps)
    assert end > start, "the first prompt ended before the last one began: ask for more tokens"
    num_decoded = sum(start < stamp <= end for times in stamps for stamp in times)
    return Speed(len(stamps) * prompt_tokens / (start - began), num_decoded / (end - start))


def _table(results: Results, options: argparse.Namespace) -> str:
    limit = statistics.median(results.bandwidths)
    num_bytes = results.shape.weights_read * BYTES_PER_WEIGHT[results.dtype]
    packages = [*PACKAGES, *([] if missing() else ["llama-cpp-python"])]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        f"### {options.shape}, {results.dtype} weights",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {options.threads} threads of {_cpu()}, {versions}. Prompts "
        f"of {options.prompt_tokens} tokens, {options.tokens} new ones, {options.rounds} rounds. "
        f"Memory reads {limit:.1f} GB/s, so {limit * 1e9 / num_bytes:.1f} steps a second at most.",
        "",
        "| requests | system | prefill tok/s | decode tok/s | of the limit | ours / it | goal |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, count in sorted(results.speeds, key=lambda key: key[1]):
        speeds = results.speeds[name, count]
        decode = [speed.decode for speed in speeds]
        median = statistics.median(decode)
        share = median / count * num_bytes / 1e9 / limit
        prefill = statistics.median(speed.prefill for speed in speeds)
        lines.append(
            f"| {count} | {name} | {prefill:.0f} | "
            f"{median:.1f} ({min(decode):.1f} to {max(decode):.1f}) | {share:.0%} | "
            f"{_verdict(results, name, count)} |"
        )
    if results.dtype == "bf16":
        lines += [
            f"| {count} | {ONE_BY_ONE} | | | | {_verdict(results, ONE_BY_ONE, count)} |"
            for count in options.requests
            if count > 1
        ]
    return "\n".join(lines)


def _verdict(results: Results, against: str, num_requests: int) -> str:
    """The last two cells of a row."""
    if against == Ours.name:
        return " | "
    goal = GOALS.get((results.dtype, against), {}).get(num_requests)
    ratio = results.decode_ratio(against, num_requests)
    verdict = "" if goal is None else f"{goal}: {'met' if ratio >= goal else 'missed'}"
    return f"{ratio:.2f} | {verdict}"


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _say(line: str) -> None:
    print(line, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; those of the process where none are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--dtype", nargs="+", choices=BYTES_PER_WEIGHT, default=["bf16", "int8"])
    parser.add_argument("--requests", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48, help="new ones a request")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--no-continuous",
        dest="continuous",
        action="store_false",
        help="leave transformers' continuous batching out; it is slow",
    )
    parser.add_argument("--quick", action="store_true", help="a small model, one round")
    options = parser.parse_args(arguments)
    if options.quick:
        options.shape, options.rounds = "small", 1
    return options


if __name__ == "__main__":
    main()
