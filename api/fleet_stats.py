"""What all live workers' figures come to, and what ended jobs add up to: the statistics' bodies.

From one snapshot of the fleet, so that any gateway gives the same answer. What a worker counts goes
with the worker; what jobs add up to stays. Knows nothing about HTTP or Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from api.fleet_poller import Throughput
from common.fleet import Fleet, WorkerInfo
from common.model_catalog import ModelCatalog
from common.schemas import JOB_CLASSES, JobStatus
from common.tallies import LATENCIES, Histogram, Tally, total_of
from common.vitals import CacheUse, EngineStats, GpuVitals, HostVitals

GIB = 2**30
_QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
_NOT_SERVED = (JobStatus.FAILED, JobStatus.EXPIRED)


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What the answering gateway adds of its own.

    Attributes:
        queue_capacity: Jobs that may wait.
        throughput: None before its second look at the fleet.
        uptime_s: Seconds since it started.
    """

    catalog: ModelCatalog
    queue_capacity: int
    throughput: Throughput | None
    uptime_s: float


def metrics_view(fleet: Fleet, queue_capacity: int) -> dict[str, Any]:
    """The body of `/v1/metrics`; a part that no live worker tells of is None."""
    hosts, gpus, caches = hosts_of(fleet.workers), gpus_of(fleet.workers), caches_of(fleet.workers)
    return {
        "cpu": _cpu(hosts) if hosts else None,
        "memory": _memory(hosts) if hosts else None,
        "gpu": _gpu(gpus) if gpus else None,
        "engine": _engine(fleet, queue_capacity),
        "cache": cache_view(caches) if caches else None,
    }


def engine_stats_view(fleet: Fleet, gateway: GatewayView) -> dict[str, Any]:
    """The body of `/v1/engine/stats`."""
    default, models = gateway.catalog.default.model, [e.model for e in gateway.catalog.entries]
    total = total_of(fleet.tallies.values())
    throughput = gateway.throughput
    return {
        "is_ready": any(fleet.can_run(model) for model in models),
        "model": default,
        "models": models,
        "uptime_seconds": max(
            (w.vitals.uptime_s for w in fleet.workers if w.vitals is not None), default=0.0
        ),
        "request_count": fleet.counters.get("jobs:submitted", 0),
        "active_requests": fleet.running,
        "requests": _requests(total),
        "tokens": _tokens(total),
        "queue": _queue(fleet, gateway.queue_capacity),
        "latencies": _latencies(total),
        "average_latency_ms": _ms(total.latency("end_to_end").mean_s),
        "tokens_per_second": (
            None if throughput is None else round(throughput.generation_tokens_per_s, 2)
        ),
        "throughput": None if throughput is None else _throughput(throughput),
        "by_model": {model: _model(fleet, model) for model in sorted({*models, *fleet.tallies})},
        "workers": [_worker(worker) for worker in fleet.workers],
        "gateway": {"uptime_seconds": round(gateway.uptime_s, 1)},
    }


def hosts_of(workers: Iterable[WorkerInfo]) -> list[HostVitals]:
    """The machines, each once, as the worker told that was heard last."""
    known = [worker.vitals for worker in workers if worker.vitals is not None]
    return list({vitals.host.machine_id: vitals.host for vitals in known}.values())


def gpus_of(workers: Iterable[WorkerInfo]) -> list[GpuVitals]:
    """The GPUs, each once; of one whose driver cannot be asked, the memory that torch knows."""
    gpus = [gpu for worker in workers if (gpu := gpu_of(worker)) is not None]
    return list({gpu.uuid: gpu for gpu in gpus}.values())


def gpu_of(worker: WorkerInfo) -> GpuVitals | None:
    """A worker's GPU; None where it has none."""
    if worker.vitals is not None and worker.vitals.gpu is not None:
        return worker.vitals.gpu
    if worker.gpu_memory is None:
        return None
    used, total = worker.gpu_memory["used"], worker.gpu_memory["total"]
    return GpuVitals(f"of worker {worker.worker_id}", memory_used=used, memory_total=total)


def engines_of(worker: WorkerInfo) -> dict[str, EngineStats]:
    """The engines that a worker runs, by model."""
    return {} if worker.vitals is None else worker.vitals.engines


def caches_of(workers: Iterable[WorkerInfo]) -> list[CacheUse]:
    """The caches of all engines."""
    engines = [engine for worker in workers for engine in engines_of(worker).values()]
    return [engine.cache for engine in engines if engine.cache is not None]


def cache_view(caches: Iterable[CacheUse]) -> dict[str, Any]:
    """Caches put together; sizes in tokens."""
    caches = list(caches)

    def total(of: Callable[[CacheUse], int]) -> int:
        return sum(map(of, caches))

    hits, misses = total(lambda c: c.hits), total(lambda c: c.misses)
    evictable, protected = total(lambda c: c.reusable_tokens), total(lambda c: c.used_tokens)
    return {
        "hit_rate": round(hits / (hits + misses), 4) if hits + misses else 0.0,
        "hits": hits,
        "misses": misses,
        "evictable_size": evictable,
        "protected_size": protected,
        "total_cached": evictable + protected,
        "total_capacity": total(lambda c: c.capacity_tokens),
        "evictions": total(lambda c: c.evictions),
        "node_count": total(lambda c: c.num_entries),
    }


def _cpu(hosts: list[HostVitals]) -> dict[str, Any]:
    num_cores = sum(host.cpu_count for host in hosts)
    busy = sum(host.cpu_percent * host.cpu_count for host in hosts)
    return {"utilization_percent": round(busy / num_cores, 1), "core_count": num_cores}


def _memory(hosts: list[HostVitals]) -> dict[str, Any]:
    used, total = sum(h.memory_used for h in hosts), sum(h.memory_total for h in hosts)
    return {
        "used_gb": _gib(used),
        "total_gb": _gib(total),
        "utilization_percent": round(100 * used / total, 1),
    }


def _gpu(gpus: list[GpuVitals]) -> dict[str, Any]:
    busy = [gpu.utilization_percent for gpu in gpus if gpu.utilization_percent is not None]
    heat = [gpu.temperature_c for gpu in gpus if gpu.temperature_c is not None]
    return {
        "utilization_percent": round(sum(busy) / len(busy), 1) if busy else None,
        "memory_used_gb": _gib(sum(gpu.memory_used or 0 for gpu in gpus)),
        "memory_total_gb": _gib(sum(gpu.memory_total or 0 for gpu in gpus)),
        "temperature_c": max(heat, default=None),
    }


def _engine(fleet: Fleet, queue_capacity: int) -> dict[str, Any]:
    total, counters = total_of(fleet.tallies.values()), fleet.counters

    def mean_ms(latency: str) -> float:
        return _ms(total.latency(latency).mean_s) or 0.0

    return {
        "total_requests": counters.get("jobs:submitted", 0),
        "completed_requests": counters.get("jobs:completed", 0),
        "failed_requests": sum(counters.get(f"jobs:{status}", 0) for status in _NOT_SERVED),
        "total_tokens_generated": counters.get("generation_tokens", 0),
        "avg_queue_time_ms": mean_ms("queue"),
        "avg_prefill_time_ms": mean_ms("prefill"),
        "avg_decode_time_ms": mean_ms("decode"),
        "queue_size": fleet.num_queued,
        "queue_capacity": queue_capacity,
        "concurrent_requests": fleet.running,
    }


def _requests(tally: Tally) -> dict[str, int]:
    names = [status.value for status in JobStatus if status.is_final]
    return {name: tally.jobs.get(name, 0) for name in (*names, "resumed")}


def _tokens(tally: Tally) -> dict[str, int]:
    return {name: tally.tokens.get(name, 0) for name in ("prompt", "cached", "generation")}


def _queue(fleet: Fleet, capacity: int) -> dict[str, Any]:
    return {"size": fleet.num_queued, "capacity": capacity, "by_model": fleet.queued_by_class}


def _latencies(tally: Tally) -> dict[str, dict[str, Any]]:
    return {name: _latency(tally.latency(name)) for name in LATENCIES}


def _latency(histogram: Histogram) -> dict[str, Any]:
    quantiles = {name: _ms(histogram.quantile_s(share)) for name, share in _QUANTILES.items()}
    return {"count": histogram.count, "average_ms": _ms(histogram.mean_s), **quantiles}


def _throughput(throughput: Throughput) -> dict[str, float]:
    return {
        "window_seconds": round(throughput.window_s, 1),
        "requests_per_second": round(throughput.requests_per_s, 3),
        "prompt_tokens_per_second": round(throughput.prompt_tokens_per_s, 2),
        "generation_tokens_per_second": round(throughput.generation_tokens_per_s, 2),
    }


def _model(fleet: Fleet, model: str) -> dict[str, Any]:
    tally = fleet.tallies.get(model, Tally())
    engines = [found for w in fleet.workers if (found := engines_of(w).get(model)) is not None]
    return {
        "state": fleet.state(model),
        "workers": len(fleet.states(model)),
        "queued": fleet.queued_by_class.get(model, dict.fromkeys(JOB_CLASSES, 0)),
        "requests": _requests(tally),
        "tokens": _tokens(tally),
        "latencies": _latencies(tally),
        "engine": _engines(engines) if engines else None,
    }


def _engines(engines: list[EngineStats]) -> dict[str, Any]:
    """One model's engines put together."""
    num_steps, num_tokens = sum(e.num_steps for e in engines), sum(e.num_tokens for e in engines)
    caches = [engine.cache for engine in engines if engine.cache is not None]
    return {
        "running": sum(engine.num_running for engine in engines),
        "waiting": sum(engine.num_waiting for engine in engines),
        "steps": num_steps,
        "generation_tokens": num_tokens,
        "tokens_per_step": round(num_tokens / num_steps, 2) if num_steps else None,
        "preemptions": sum(engine.num_preempted for engine in engines),
        "cache": cache_view(caches) if caches else None,
    }


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    vitals, gpu, engines = worker.vitals, gpu_of(worker), engines_of(worker)
    return {
        "worker_id": worker.worker_id,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "device": worker.device,
        "slots": worker.slots,
        "running": worker.running,
        "uptime_seconds": None if vitals is None else vitals.uptime_s,
        "memory_gb": None if vitals is None else _gib(vitals.rss),
        "gpu": None if gpu is None else {"name": gpu.name, **_gpu([gpu]), "power_w": gpu.power_w},
        "models": {
            model: {
                "state": served.state,
                "reason": served.reason,
                "engine": _engines([engines[model]]) if model in engines else None,
            }
            for model, served in worker.models.items()
        },
    }


def _gib(num_bytes: int) -> float:
    return round(num_bytes / GIB, 2)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
