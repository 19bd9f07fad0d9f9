"""`/v1/metrics`, `/v1/engine/stats` and what the fleet adds to `/metrics`, on a real Redis."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.stats_answers import EngineStatsAnswer, MetricsAnswer
from common import keys
from common.connection import SyncRedis
from common.fleet import ServedModel, WorkerInfo
from common.job_store import Claims
from common.schemas import JobStatus
from common.settings import Settings
from common.vitals import CacheUse, EngineStats, GpuVitals, HostVitals, Vitals
from tests.integration.api.conftest import LiveGateway, Start
from tests.integration.api.support import MODEL, HandWorker, submit

GIB = 2**30
PARTS = {
    "cpu": {"utilization_percent", "core_count"},
    "memory": {"used_gb", "total_gb", "utilization_percent"},
    "gpu": {"utilization_percent", "memory_used_gb", "memory_total_gb", "temperature_c"},
    "engine": {
        "total_requests",
        "completed_requests",
        "failed_requests",
        "total_tokens_generated",
        "avg_queue_time_ms",
        "avg_prefill_time_ms",
        "avg_decode_time_ms",
        "queue_size",
        "queue_capacity",
        "concurrent_requests",
    },
    "cache": {
        "hit_rate",
        "hits",
        "misses",
        "evictable_size",
        "protected_size",
        "total_cached",
        "total_capacity",
        "evictions",
        "node_count",
    },
}
HISTOGRAMS = {
    "baton_request_queue_time_seconds",
    "baton_request_prefill_time_seconds",
    "baton_request_decode_time_seconds",
    "baton_time_to_first_token_seconds",
    "baton_inter_token_latency_seconds",
    "baton_e2e_request_latency_seconds",
}


def announce(client: SyncRedis, settings: Settings, worker_id: str) -> None:
    """One beat of a worker with a GPU and a cache, all on one machine."""
    vitals = Vitals(
        uptime_s=60.0,
        rss=GIB,
        host=HostVitals("machine", 45.2, 8, 8 * GIB, 16 * GIB),
        gpu=GpuVitals(f"GPU-{worker_id}", "Fake", 67.3, 12 * GIB, 24 * GIB, 72, 300.0),
        engines={MODEL: EngineStats(1, 0, 10, 15, 0, CacheUse(1000, 100, 200, 20, 99, 30, 10, 2))},
    )
    models = {MODEL: ServedModel("ready", revision="r1")}
    info = WorkerInfo(worker_id, "host", 1, "0", "cuda:0", 4, 1, models, None, vitals)
    Claims(client, settings, worker_id).heartbeat(info.pack(), [])


async def get(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    response = await http.get(path)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_the_metrics_have_exactly_their_documented_parts_and_fields(
    start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    announce(client, settings, "a")
    body = await get(await start_app(settings), "/v1/metrics")
    MetricsAnswer.model_validate(body)
    assert {part: set(fields) for part, fields in body.items()} == PARTS
    assert all(
        isinstance(value, int | float) for fields in body.values() for value in fields.values()
    )


async def test_workers_of_one_machine_add_up_and_the_machine_counts_once(
    start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    for worker_id in ("a", "b"):
        announce(client, settings, worker_id)
    body = await get(await start_app(settings), "/v1/metrics")
    assert body["cpu"] == {"utilization_percent": 45.2, "core_count": 8}
    assert body["memory"] == {"used_gb": 8.0, "total_gb": 16.0, "utilization_percent": 50.0}
    assert body["gpu"]["memory_total_gb"] == 48.0
    assert (body["cache"]["hits"], body["cache"]["hit_rate"]) == (60, 0.75)


async def test_a_worker_that_is_gone_no_longer_counts(
    start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    for worker_id in ("a", "b"):
        announce(client, settings, worker_id)
    Claims(client, settings, "a").leave()
    client.delete(keys.worker("b"))  # its announcement has passed, and no reaper has swept it yet
    http = await start_app(settings)
    body = await get(http, "/v1/metrics")
    assert [body[part] for part in ("cpu", "memory", "gpu", "cache")] == [None] * 4
    assert (await get(http, "/v1/engine/stats"))["workers"] == []
    client.zrem(keys.WORKERS, "b")


async def test_jobs_that_a_worker_ends_move_the_figures_on_every_gateway(
    start_app: Start, settings: Settings, worker: HandWorker, client: SyncRedis
) -> None:
    http = await start_app(settings)
    for priority in ("normal", "normal", "normal", "low"):
        await submit(http, priority=priority)
    worker.run("a", "b", "c")
    worker.run("a")
    worker.claim()
    announce(client, settings, "a")
    body = await get(await start_app(settings), "/v1/engine/stats")
    EngineStatsAnswer.model_validate(body)
    assert (body["is_ready"], body["model"], body["uptime_seconds"]) == (True, MODEL, 60.0)
    assert (body["request_count"], body["active_requests"]) == (4, 1)
    assert body["requests"]["completed"] == 2
    assert body["tokens"] == {"prompt": 24, "cached": 6, "generation": 4}
    waiting = {"high": 0, "normal": 0, "low": 1}
    assert body["queue"] == {"size": 1, "capacity": 100_000, "by_model": {MODEL: waiting}}
    counts = {name: latency["count"] for name, latency in body["latencies"].items()}
    assert counts == {
        "queue": 2,
        "prefill": 2,
        "decode": 2,
        "time_to_first_token": 2,
        "inter_token": 2,
        "end_to_end": 2,
        "cancel": 0,
    }
    assert body["by_model"][MODEL]["latencies"] == body["latencies"]
    assert body["average_latency_ms"] == body["latencies"]["end_to_end"]["average_ms"] is not None
    engine = (await get(await start_app(settings), "/v1/metrics"))["engine"]
    assert (engine["total_requests"], engine["completed_requests"]) == (4, 2)
    assert (engine["total_tokens_generated"], engine["queue_size"]) == (4, 1)


async def test_recent_throughput_is_of_what_ended_while_this_gateway_looked(
    live: LiveGateway, live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    await submit(live_http)
    await live.gateway.poller.poll()
    worker.run("a", "b")
    await live.gateway.poller.poll()
    body = await get(live_http, "/v1/engine/stats")
    throughput = body["throughput"]
    assert throughput["window_seconds"] <= 60
    assert body["tokens_per_second"] == throughput["generation_tokens_per_second"] > 0
    assert throughput["prompt_tokens_per_second"] > throughput["generation_tokens_per_second"]


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/engine/stats"])
async def test_statistics_ask_for_a_key(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path, headers={"X-API-Key": "wrong"})
    assert response.status_code == 401


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/engine/stats"])
async def test_while_redis_is_away_there_are_no_statistics(
    start_app: Start, make_settings: Any, path: str
) -> None:
    http = await start_app(make_settings(redis_url="redis://127.0.0.1:1/0"))
    response = await http.get(path)
    assert response.status_code == 503
    assert response.headers["retry-after"]


async def scrape(http: httpx.AsyncClient) -> dict[str, Any]:
    response = await http.get("/metrics")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def buckets(family: Any) -> list[float]:
    return [sample.value for sample in family.samples if sample.name.endswith("_bucket")]


async def test_latencies_are_prometheus_histograms(
    start_app: Start, settings: Settings, worker: HandWorker, client: SyncRedis
) -> None:
    http = await start_app(settings)
    for _ in range(3):
        await submit(http)
        worker.run("a", "b", "c")
    announce(client, settings, "w")
    families = await scrape(await start_app(settings))
    assert {name for name in HISTOGRAMS if families[name].type == "histogram"} == HISTOGRAMS
    for name in HISTOGRAMS:
        found = buckets(families[name])
        [count] = [s.value for s in families[name].samples if s.name == f"{name}_count"]
        assert found == sorted(found)
        assert found[-1] == count == (6 if "inter_token" in name else 3)
        assert {sample.labels["model"] for sample in families[name].samples} == {MODEL}
    [success] = [s for s in families["baton_request_success"].samples if s.name.endswith("_total")]
    assert success.labels == {"model": MODEL, "finish_reason": "stop"}
    assert success.value == 3
    of_worker = {"worker": "w", "model": MODEL}
    for name, value in {
        "baton_kv_cache_usage_ratio": 0.1,
        "baton_prefix_cache_queries": 40,
        "baton_prefix_cache_hits": 30,
        "baton_num_preemptions": 0,
    }.items():
        [sample] = families[name].samples
        assert (sample.labels, sample.value) == (of_worker, value)


async def test_a_cancelled_running_job_is_in_the_histogram_of_cancels(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    http = await start_app(settings)
    task_id = await submit(http)
    claim = worker.claim()
    assert (await http.delete(f"/tasks/{task_id}")).status_code == 202
    worker.end(claim, JobStatus.CANCELLED)
    family = (await scrape(await start_app(settings)))["baton_cancel_latency_seconds"]
    [count] = [s.value for s in family.samples if s.name.endswith("_count")]
    assert (family.type, count) == ("histogram", 1)


async def test_no_counter_goes_back_while_workers_come_and_go(
    start_app: Start, settings: Settings, worker: HandWorker, client: SyncRedis
) -> None:
    http = await start_app(settings)
    before: dict[Any, float] = {}
    for start in ("first", "second", "third"):  # an id of its own at each start
        announce(client, settings, start)
        await submit(http)
        worker.run("a", "b")
        now = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in (await scrape(await start_app(settings))).values()
            if family.type in ("counter", "histogram") and "http" not in family.name
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        assert all(now[series] >= value for series, value in before.items() if series in now)
        gone = before.keys() - now.keys()
        assert all("worker" in dict(labels) for _, labels in gone), gone
        before = now
        Claims(client, settings, start).leave()
