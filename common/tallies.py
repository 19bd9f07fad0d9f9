"""What ended jobs add up to, per model, since the counters began: jobs, tokens, latencies.

The end of each job adds to its model's hash, in the script that ends it (`scripts/_tallies.lua`),
so that the sums are exact over all gateways, workers and restarts, and never go back. Its fields:

    jobs:<final status>                     jobs that came to it
    jobs:resumed                            jobs that went back in line once begun
    finish:<reason>                         completed jobs, by how their first choice ended; those
                                            that embed have none
    tokens:prompt|cached|generation         tokens of jobs that began
    <latency>:<upper edge, us, or inf>      observations in one bucket, not in those below
    <latency>:sum                           all observations together, us

Latencies, and which jobs are observed:

    queue                from submit to the first claim; every job that was claimed
    prefill, decode      the engine's own times; jobs that had a first token
    time_to_first_token  from submit; jobs that had a first token
    inter_token          the job's mean gap, once for each gap; jobs that did not go back in line
    end_to_end           from submit to the end; completed jobs
    cancel               from the first call to cancel to the end; jobs that ran at that call

A name that is none of these is a later version's, and passed over.

Knows nothing about Redis commands or HTTP.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self

# fmt: off
EDGES_US = (
    500,
    1_000, 2_000, 3_000, 5_000, 7_500,
    10_000, 15_000, 20_000, 30_000, 50_000, 75_000,
    100_000, 150_000, 200_000, 300_000, 500_000, 750_000,
    1_000_000, 1_500_000, 2_000_000, 3_000_000, 5_000_000, 7_500_000,
    10_000_000, 15_000_000, 20_000_000, 30_000_000, 60_000_000,
    120_000_000, 300_000_000, 600_000_000, 1_800_000_000,
)
# fmt: on
"""Upper edges of every latency's buckets: the closer they are, the better a quantile is known."""
LATENCIES = (
    "queue",
    "prefill",
    "decode",
    "time_to_first_token",
    "inter_token",
    "end_to_end",
    "cancel",
)
# A function, for every script of every call would build a table.
LUA_TALLIES = f"local function edges_us() return {{{', '.join(map(str, EDGES_US))}}} end\n"

_NUM_BUCKETS = len(EDGES_US) + 1
_OVERFLOW = "inf"
_SUM = "sum"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations of one latency.

    Attributes:
        counts: One for each edge and one beyond the last; each bucket alone.
        sum_us: All observations together, in microseconds.
    """

    counts: tuple[int, ...] = (0,) * _NUM_BUCKETS
    sum_us: int = 0

    def __add__(self, other: Self) -> Self:
        """Both together."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return type(self)(counts, self.sum_us + other.sum_us)

    @property
    def count(self) -> int:
        """How many observations there are."""
        return sum(self.counts)

    @property
    def mean_s(self) -> float | None:
        """Their exact mean, in seconds; None where there are none."""
        return self.sum_us / self.count / 1e6 if self.count else None

    def quantile_s(self, share: float) -> float | None:
        """Estimate below what this share of the observations lies, in seconds.

        Args:
            share: From 0 to 1.

        Returns:
            None where there are no observations; the last edge where it lies beyond that.

        Source:
            As Prometheus's histogram_quantile: linear within a bucket, the first begins at 0.
        """
        if not self.count:
            return None
        rank = share * self.count
        reached = list(accumulate(self.counts))
        bucket = bisect_left(reached, rank)
        while not self.counts[bucket]:  # a share of 0 lies in the first bucket that has any
            bucket += 1
        if bucket == len(EDGES_US):
            return EDGES_US[-1] / 1e6
        low = EDGES_US[bucket - 1] if bucket else 0
        before = reached[bucket] - self.counts[bucket]
        return (low + (EDGES_US[bucket] - low) * (rank - before) / self.counts[bucket]) / 1e6

    def cumulative(self) -> list[tuple[str, int]]:
        """Prometheus's buckets: upper edges in seconds, each with all that lies below it."""
        edges = [str(edge / 1e6) for edge in EDGES_US]
        return list(zip([*edges, "+Inf"], accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class Tally:
    """What the ended jobs of one model, or of all, add up to.

    Attributes:
        jobs: By final status; `resumed` counts some of them once more.
        finish: Completed ones, by finish reason.
        tokens: `prompt`, `cached` (of the prompts) and `generation`.
        latencies: By name, of `LATENCIES`.
    """

    jobs: dict[str, int] = field(default_factory=dict)
    finish: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, Histogram] = field(default_factory=dict)

    def latency(self, name: str) -> Histogram:
        """One of `LATENCIES`, empty where there is no observation."""
        return self.latencies.get(name, Histogram())


def read_tally(fields: Mapping[str, str]) -> Tally:
    """A model's tally, from the fields of its hash."""
    tally = Tally()
    counts_of = {"jobs": tally.jobs, "finish": tally.finish, "tokens": tally.tokens}
    buckets: dict[str, list[int]] = {}
    for name, value in fields.items():
        what, _, part = name.partition(":")
        if what in counts_of:
            counts_of[what][part] = int(value)
        elif what in LATENCIES and part != _SUM:
            counts = buckets.setdefault(what, [0] * _NUM_BUCKETS)
            counts[_bucket(part)] += int(value)
    for what, counts in buckets.items():
        sum_us = int(fields.get(f"{what}:{_SUM}", 0))
        tally.latencies[what] = Histogram(tuple(counts), sum_us)
    return tally


def total_of(tallies: Iterable[Tally]) -> Tally:
    """All models together."""
    total = Tally()
    for tally in tallies:
        for mine, more in (
            (total.jobs, tally.jobs),
            (total.finish, tally.finish),
            (total.tokens, tally.tokens),
        ):
            for name, value in more.items():
                mine[name] = mine.get(name, 0) + value
        for name, histogram in tally.latencies.items():
            total.latencies[name] = total.latency(name) + histogram
    return total


def _bucket(edge: str) -> int:
    # An edge of another version's is counted in the bucket that holds it whole.
    return len(EDGES_US) if edge == _OVERFLOW else bisect_left(EDGES_US, int(edge))
