"""The jobs of a run and who follows each of them, drawn from one seed.

Pure: the same seed and count give the same jobs. Knows nothing about HTTP or processes.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Any

from tests.chaos.model import LETTERS

KEYS = ("key-of-alice", "key-of-bob", "key-of-carol")
LONG_TOKENS, SHORT_TOKENS = (200, 600), (1, 30)
SHORT_SHARE = 0.15
CANCELLED_SHARE = 0.1
STOPPED_SHARE = 0.25
GREEDY_SHARE = 0.3


@dataclass(frozen=True)
class WatcherPlan:
    """One watcher of a job.

    Attributes:
        joins_after_s: Seconds from the job's acceptance to its first connection.
        hangs_up_after_s: Seconds for which it keeps each of its first connections; None: it
            never hangs up by itself.
    """

    joins_after_s: float = 0.0
    hangs_up_after_s: float | None = None


@dataclass(frozen=True)
class ChaosJob:
    """One job.

    Attributes:
        number: Its place in the run, from 0.
        key: The API key that submits it.
        body: Of `POST /generate`.
        watchers: Who follows its stream. Every job is also polled.
        cancel_after_s: Seconds from its acceptance to its cancellation; None: never.
    """

    number: int
    key: str
    body: dict[str, Any]
    watchers: tuple[WatcherPlan, ...]
    cancel_after_s: float | None


def draw_jobs(seed: int, count: int) -> list[ChaosJob]:
    """Draw the jobs of a run.

    Args:
        seed: Decides everything.
        count: How many.
    """
    rng = random.Random(f"jobs {seed}")
    return [_draw_job(rng, number) for number in range(count)]


def for_upstream(job: ChaosJob) -> ChaosJob:
    """The job as llama.cpp's server takes it; the end token never comes there either."""
    body = {name: value for name, value in job.body.items() if name != "ignore_eos"}
    return replace(job, body=body)


def _draw_job(rng: random.Random, number: int) -> ChaosJob:
    is_cancelled = rng.random() < CANCELLED_SHARE
    is_short = rng.random() < SHORT_SHARE
    body: dict[str, Any] = {
        "prompt": "".join(rng.choices(LETTERS, k=rng.randint(4, 120))),
        "raw": True,
        "ignore_eos": True,
        "max_tokens": rng.randint(*(SHORT_TOKENS if is_short else LONG_TOKENS)),
        "seed": rng.randrange(2**32),
        "priority": rng.choices(("high", "normal", "low"), (1, 8, 1))[0],
    }
    body |= _draw_sampling(rng)
    if not is_cancelled and rng.random() < STOPPED_SHARE:
        # Pairs of letters: a first letter alone is often held back and then given out.
        pairs = list(itertools.product(LETTERS, repeat=2))
        body["stop"] = ["".join(pair) for pair in rng.sample(pairs, 16)]
    return ChaosJob(
        number=number,
        key=rng.choice(KEYS),
        body=body,
        watchers=_draw_watchers(rng),
        cancel_after_s=rng.uniform(0.0, 3.0) if is_cancelled else None,
    )


def _draw_sampling(rng: random.Random) -> dict[str, Any]:
    # Penalties make each draw depend on every earlier token (see `model`).
    penalties = {"frequency_penalty": 0.05, "repetition_penalty": rng.choice((1.0, 1.1))}
    if rng.random() < GREEDY_SHARE:
        return {"temperature": 0.0, **penalties}
    return {
        "temperature": round(rng.uniform(0.5, 1.5), 2),
        "top_p": rng.choice((0.8, 0.95, 1.0)),
        "top_k": rng.choice((0, 20)),
        **penalties,
    }


def _draw_watchers(rng: random.Random) -> tuple[WatcherPlan, ...]:
    watchers = [WatcherPlan()]
    if rng.random() < 0.25:
        watchers.append(WatcherPlan(joins_after_s=rng.uniform(0.5, 5.0)))
    if rng.random() < 0.25:
        watchers.append(WatcherPlan(hangs_up_after_s=rng.uniform(0.2, 2.0)))
    return tuple(watchers)
