"""What only a worker can tell of itself and its machine; it rides in the worker's announcement.

Figures of now, and counts since the worker's start: they go when the worker goes. Sizes in bytes,
but for the cache's, which are in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from common.known_fields import of_known


@dataclass(frozen=True, slots=True)
class HostVitals:
    """The machine, shared by all workers on it.

    Attributes:
        machine_id: The same for all workers of a machine, in containers too.
        cpu_percent: How busy all cores are together, from 0 to 100.
        cpu_count: Logical cores.
    """

    machine_id: str
    cpu_percent: float
    cpu_count: int
    memory_used: int
    memory_total: int


@dataclass(frozen=True, slots=True)
class GpuVitals:
    """A worker's GPU, as its driver tells; None where the driver does not tell."""

    uuid: str
    name: str | None = None
    utilization_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class CacheUse:
    """A model's key-value cache.

    Attributes:
        capacity_tokens: Tokens that fit, over all sequences.
        used_tokens: Tokens of jobs that run.
        reusable_tokens: Tokens that ended jobs left, given up as soon as room is needed.
        num_entries: Blocks, slots or sequences that hold these.
        hits: Prompt tokens that were looked up and found.
        misses: Prompt tokens that were looked up and not found.
        evictions: Times that tokens were given up for others.
    """

    capacity_tokens: int
    used_tokens: int
    reusable_tokens: int
    num_entries: int
    size_bytes: int
    hits: int
    misses: int
    evictions: int

    def after(self, earlier: CacheUse) -> CacheUse:
        """The same with counts that go on from those of an earlier cache."""
        return replace(
            self,
            hits=earlier.hits + self.hits,
            misses=earlier.misses + self.misses,
            evictions=earlier.evictions + self.evictions,
        )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One loaded model's engine; what is counted is counted since the worker's start.

    Attributes:
        num_running: Sequences in the batch.
        num_waiting: Sequences that wait for room in it.
        num_steps: Forward passes so far.
        num_tokens: Tokens generated so far.
        num_preempted: How often a sequence gave way to others.
        cache: None where the backend has none of its own.
    """

    num_running: int
    num_waiting: int
    num_steps: int
    num_tokens: int
    num_preempted: int
    cache: CacheUse | None = None

    def after(self, earlier: EngineStats) -> EngineStats:
        """The same with counts that go on from those of an earlier engine of the model."""
        cache = self.cache
        if cache is not None and earlier.cache is not None:
            cache = cache.after(earlier.cache)
        return replace(
            self,
            num_steps=earlier.num_steps + self.num_steps,
            num_tokens=earlier.num_tokens + self.num_tokens,
            num_preempted=earlier.num_preempted + self.num_preempted,
            cache=cache,
        )


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a worker announces of its process, its machine and its engines.

    Attributes:
        uptime_s: Seconds since the process began to serve.
        rss: Memory of the process.
        gpu: None on a CPU, before a model is loaded, and where there is no driver to ask.
        engines: By model, those that are loaded.
    """

    uptime_s: float
    rss: int
    host: HostVitals
    gpu: GpuVitals | None = None
    engines: dict[str, EngineStats] = field(default_factory=dict)

    @classmethod
    def unpack(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`; fields of a later version's are passed over."""
        gpu = values.get("gpu")
        return cls(
            uptime_s=values["uptime_s"],
            rss=values["rss"],
            host=of_known(HostVitals, values["host"]),
            gpu=None if gpu is None else of_known(GpuVitals, gpu),
            engines={model: _engine(each) for model, each in values["engines"].items()},
        )


def _engine(values: Mapping[str, Any]) -> EngineStats:
    cache = values["cache"]
    return of_known(
        EngineStats, {**values, "cache": None if cache is None else of_known(CacheUse, cache)}
    )
