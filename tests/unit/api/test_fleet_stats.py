"""The statistics' bodies, from fleets whose figures a person can add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.fleet_poller import Throughput
from api.fleet_stats import GIB, GatewayView, engine_stats_view, metrics_view
from api.stats_answers import EngineStatsAnswer, MetricsAnswer
from common.fleet import Fleet, ServedModel, WorkerInfo
from common.model_catalog import ModelCatalog
from common.settings import Settings
from common.tallies import read_tally
from common.vitals import CacheUse, EngineStats, GpuVitals, HostVitals, Vitals

MODEL = "baton-toy"
CACHE = CacheUse(
    capacity_tokens=1000,
    used_tokens=300,
    reusable_tokens=500,
    num_entries=50,
    size_bytes=4096,
    hits=85,
    misses=15,
    evictions=3,
)
ENGINE = EngineStats(
    num_running=2, num_waiting=1, num_steps=100, num_tokens=150, num_preempted=4, cache=CACHE
)
GPU = GpuVitals("GPU-1", "Fake", 60.0, 12 * GIB, 24 * GIB, 70, 300.0)


def host(machine_id: str = "one", **changes: Any) -> HostVitals:
    return replace(HostVitals(machine_id, 50.0, 8, 4 * GIB, 16 * GIB), **changes)


def worker(
    worker_id: str,
    of: HostVitals | None,
    gpu: GpuVitals | None = None,
    engine: EngineStats | None = ENGINE,
    **changes: Any,
) -> WorkerInfo:
    engines = {} if engine is None else {MODEL: engine}
    vitals = None if of is None else Vitals(100.0, GIB // 2, of, gpu, engines)
    models = {MODEL: ServedModel("ready", revision="r1")}
    info = WorkerInfo(worker_id, f"pod-{worker_id}", 1, "0", "cpu", 8, 2, models, None, vitals)
    return replace(info, **changes)


def fleet(*workers: WorkerInfo, **changes: Any) -> Fleet:
    return replace(Fleet(workers, {MODEL: 0}, 0, {}, 0, None), **changes)


def metrics(*workers: WorkerInfo, **changes: Any) -> dict[str, Any]:
    body = metrics_view(fleet(*workers, **changes), 100)
    MetricsAnswer.model_validate(body)
    return body


def stats(
    *workers: WorkerInfo, throughput: Throughput | None = None, **changes: Any
) -> dict[str, Any]:
    gateway = GatewayView(ModelCatalog(Settings(_env_file=None)), 100, throughput, 12.34)
    body = engine_stats_view(fleet(*workers, **changes), gateway)
    EngineStatsAnswer.model_validate(body)
    return body


def test_machines_add_up_and_a_busy_big_one_weighs_more() -> None:
    other = host("two", cpu_percent=10.0, cpu_count=24, memory_used=12 * GIB)
    body = metrics(worker("a", host()), worker("b", other))
    assert body["cpu"] == {"utilization_percent": 20.0, "core_count": 32}
    assert body["memory"] == {"used_gb": 16.0, "total_gb": 32.0, "utilization_percent": 50.0}


def test_a_machine_counts_once_whatever_its_containers_are_called() -> None:
    body = metrics(worker("a", host(cpu_percent=1.0)), worker("b", host()), worker("c", host()))
    assert body["cpu"] == {"utilization_percent": 50.0, "core_count": 8}, "as last told"
    assert body["memory"]["total_gb"] == 16.0


def test_gpus_add_up_each_once() -> None:
    second = GpuVitals("GPU-2", "Fake", 80.0, 20 * GIB, 24 * GIB, 85, 400.0)
    workers = [worker("a", host(), GPU), worker("b", host(), GPU), worker("c", host(), second)]
    assert metrics(*workers)["gpu"] == {
        "utilization_percent": 70.0,
        "memory_used_gb": 32.0,
        "memory_total_gb": 48.0,
        "temperature_c": 85,
    }


def test_without_a_gpu_its_part_is_null() -> None:
    assert metrics(worker("a", host()))["gpu"] is None


def test_of_a_gpu_whose_driver_cannot_be_asked_the_memory_is_known() -> None:
    of_torch = {"used": 3 * GIB, "total": 8 * GIB}
    assert metrics(worker("a", host(), gpu_memory=of_torch))["gpu"] == {
        "utilization_percent": None,
        "memory_used_gb": 3.0,
        "memory_total_gb": 8.0,
        "temperature_c": None,
    }


def test_a_gpu_that_answers_partly_is_left_out_of_what_it_does_not_tell() -> None:
    silent = GpuVitals("MIG-2", memory_used=GIB, memory_total=GIB)
    body = metrics(worker("a", host(), GPU), worker("b", host(), silent))
    assert body["gpu"]["utilization_percent"] == 60.0
    assert body["gpu"]["memory_total_gb"] == 25.0


def test_caches_add_up_and_their_rate_is_of_the_sums() -> None:
    cold = replace(CACHE, hits=0, misses=100)
    body = metrics(worker("a", host()), worker("b", host(), engine=replace(ENGINE, cache=cold)))
    assert body["cache"] == {
        "hit_rate": 0.425,
        "hits": 85,
        "misses": 115,
        "evictable_size": 1000,
        "protected_size": 600,
        "total_cached": 1600,
        "total_capacity": 2000,
        "evictions": 6,
        "node_count": 100,
    }


def test_a_cache_that_nobody_has_asked_has_a_rate_of_zero() -> None:
    unused = replace(ENGINE, cache=replace(CACHE, hits=0, misses=0))
    assert metrics(worker("a", host(), engine=unused))["cache"]["hit_rate"] == 0.0


def test_what_jobs_add_up_to_outlives_the_workers() -> None:
    counters = {
        "jobs:submitted": 20,
        "jobs:completed": 10,
        "jobs:failed": 3,
        "jobs:expired": 2,
        "jobs:cancelled": 1,
        "generation_tokens": 500,
    }
    tallies = {
        "a": read_tally({"queue:10000": "1", "queue:sum": "9000"}),
        "b": read_tally({"queue:20000": "1", "queue:sum": "16000"}),
    }
    body = metrics(counters=counters, tallies=tallies, queued={"a": 1, "b": 2}, running=1)
    assert body == {
        "cpu": None,
        "memory": None,
        "gpu": None,
        "engine": {
            "total_requests": 20,
            "completed_requests": 10,
            "failed_requests": 5,
            "total_tokens_generated": 500,
            "avg_queue_time_ms": 12.5,
            "avg_prefill_time_ms": 0.0,
            "avg_decode_time_ms": 0.0,
            "queue_size": 3,
            "queue_capacity": 100,
            "concurrent_requests": 1,
        },
        "cache": None,
    }


def test_a_worker_that_tells_nothing_of_itself_is_listed_and_not_counted() -> None:
    body = stats(worker("old", None), worker("new", host()))
    assert metrics(worker("old", None), worker("new", host()))["cpu"]["core_count"] == 8
    old = body["workers"][0]
    assert (old["worker_id"], old["uptime_seconds"], old["memory_gb"]) == ("old", None, None)
    assert old["models"] == {MODEL: {"state": "ready", "reason": None, "engine": None}}


@pytest.mark.parametrize(("state", "is_ready"), [("ready", True), ("loading", False)])
def test_the_engine_is_ready_where_a_live_worker_has_the_default_model(
    state: Any, is_ready: bool
) -> None:
    body = stats(worker("a", host(), models={MODEL: ServedModel(state)}))
    assert (body["is_ready"], body["model"], body["models"]) == (is_ready, MODEL, [MODEL])


def test_without_a_worker_nothing_is_ready_or_up() -> None:
    body = stats()
    assert (body["is_ready"], body["uptime_seconds"], body["workers"]) == (False, 0.0, [])
    assert body["by_model"][MODEL]["engine"] is None
    assert body["gateway"] == {"uptime_seconds": 12.3}


def test_latencies_are_estimated_from_all_models_and_told_of_each() -> None:
    one = {"end_to_end:1000000": "4", "end_to_end:sum": "3600000", "jobs:completed": "4"}
    two = {"end_to_end:2000000": "4", "end_to_end:sum": "6800000", "jobs:completed": "4"}
    tallies = {MODEL: read_tally(one), "gone": read_tally({**two, "tokens:generation": "70"})}
    body = stats(worker("a", host()), tallies=tallies)
    assert body["average_latency_ms"] == 1300.0
    assert body["latencies"]["end_to_end"] == {
        "count": 8,
        "average_ms": 1300.0,
        "p50_ms": 1000.0,
        "p95_ms": 1950.0,  # 3.6 of the 4 in the bucket from 1.5 to 2 s
        "p99_ms": 1990.0,
    }
    assert body["latencies"]["decode"] == {
        "count": 0,
        "average_ms": None,
        "p50_ms": None,
        "p95_ms": None,
        "p99_ms": None,
    }
    assert body["requests"]["completed"] == 8
    assert set(body["by_model"]) == {MODEL, "gone"}, "what was served once stays in the counts"
    gone = body["by_model"]["gone"]
    assert (gone["workers"], gone["state"], gone["tokens"]["generation"]) == (0, "loading", 70)
    assert gone["latencies"]["end_to_end"]["average_ms"] == 1700.0


def test_engines_of_a_model_add_up_over_its_workers() -> None:
    body = stats(worker("a", host()), worker("b", host(), engine=replace(ENGINE, num_tokens=350)))
    engine = body["by_model"][MODEL]["engine"]
    assert engine.pop("cache")["total_capacity"] == 2000
    assert engine == {
        "running": 4,
        "waiting": 2,
        "steps": 200,
        "generation_tokens": 500,
        "tokens_per_step": 2.5,
        "preemptions": 8,
    }
    assert body["by_model"][MODEL]["workers"] == 2
    assert [w["models"][MODEL]["engine"]["generation_tokens"] for w in body["workers"]] == [
        150,
        350,
    ]


def test_the_queue_is_told_by_model_and_class() -> None:
    lines = {MODEL: {"high": 1, "normal": 2, "low": 4}}
    body = stats(queued={MODEL: 7}, queued_by_class=lines)
    assert body["queue"] == {"size": 7, "capacity": 100, "by_model": lines}
    assert body["by_model"][MODEL]["queued"] == lines[MODEL]


def test_throughput_is_told_with_its_window_or_not_at_all() -> None:
    body = stats(throughput=Throughput(60.0, 1.5, 30.25, 12.125))
    assert body["tokens_per_second"] == body["throughput"]["generation_tokens_per_second"] == 12.12
    assert body["throughput"]["window_seconds"] == 60.0
    assert (stats()["throughput"], stats()["tokens_per_second"]) == (None, None)


def test_a_workers_gpu_has_its_name_and_power() -> None:
    [told] = stats(worker("a", host(), GPU))["workers"]
    assert told["gpu"] == {
        "name": "Fake",
        "utilization_percent": 60.0,
        "memory_used_gb": 12.0,
        "memory_total_gb": 24.0,
        "temperature_c": 70,
        "power_w": 300.0,
    }


def test_a_model_that_is_not_loaded_now_is_told_as_unloaded() -> None:
    body = stats(worker("a", host(), models={MODEL: ServedModel("unloaded")}))
    assert body["by_model"][MODEL]["state"] == "unloaded"
