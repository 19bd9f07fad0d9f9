"""Prometheus families of what the fleet tells beyond its queues: latencies, engines, caches.

Latencies are by model and never go back: Redis keeps them. What a worker counts has its id as a
label, and each start has an id of its own, so such a series ends with its worker and never goes
back either.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from api.fleet_stats import engines_of
from common.fleet import Fleet

_LATENCIES = {
    "queue": (
        "baton_request_queue_time_seconds",
        "Seconds from a job's submission to its first claim by a worker.",
    ),
    "prefill": (
        "baton_request_prefill_time_seconds",
        "Seconds that the engine took to read a job's prompt.",
    ),
    "decode": (
        "baton_request_decode_time_seconds",
        "Seconds from a job's first token to its last, in the engine.",
    ),
    "time_to_first_token": (
        "baton_time_to_first_token_seconds",
        "Seconds from a job's submission to its first token.",
    ),
    "inter_token": (
        "baton_inter_token_latency_seconds",
        "Seconds between two tokens: of each job the mean, counted once for each gap.",
    ),
    "end_to_end": (
        "baton_e2e_request_latency_seconds",
        "Seconds from submission to end, of completed jobs.",
    ),
    "cancel": (
        "baton_cancel_latency_seconds",
        "Seconds from the call that cancels a running job to its end.",
    ),
}


def families(fleet: Fleet) -> Iterator[Metric]:
    """All of them, of one snapshot."""
    yield from _latencies(fleet)
    yield _successes(fleet)
    yield _resumed(fleet)
    yield from _engines(fleet)


def _latencies(fleet: Fleet) -> Iterator[Metric]:
    for latency, (name, meaning) in _LATENCIES.items():
        family = HistogramMetricFamily(name, meaning, labels=["model"])
        for model, tally in sorted(fleet.tallies.items()):
            found = tally.latency(latency)
            if found.count:
                family.add_metric([model], found.cumulative(), found.sum_us / 1e6)
        yield family


def _successes(fleet: Fleet) -> Metric:
    family = CounterMetricFamily(
        "baton_request_success",
        "Completed jobs by how their first choice ended.",
        labels=["model", "finish_reason"],
    )
    for model, tally in sorted(fleet.tallies.items()):
        for reason, num_jobs in sorted(tally.finish.items()):
            family.add_metric([model, reason], num_jobs)
    return family


def _resumed(fleet: Fleet) -> Metric:
    num_resumed = sum(tally.jobs.get("resumed", 0) for tally in fleet.tallies.values())
    return CounterMetricFamily(
        "baton_jobs_resumed",
        "Ended jobs that had gone back in line once begun.",
        num_resumed,
    )


def _engines(fleet: Fleet) -> Iterator[Metric]:
    labels = ["worker", "model"]
    usage = GaugeMetricFamily(
        "baton_kv_cache_usage_ratio", "Share of the cache that running jobs hold.", labels=labels
    )
    queries = CounterMetricFamily(
        "baton_prefix_cache_queries", "Prompt tokens looked up in the cache.", labels=labels
    )
    hits = CounterMetricFamily(
        "baton_prefix_cache_hits", "Of these, tokens that were there.", labels=labels
    )
    preemptions = CounterMetricFamily(
        "baton_num_preemptions", "Times that a sequence gave way to others.", labels=labels
    )
    for worker in fleet.workers:
        for model, engine in engines_of(worker).items():
            of, cache = [worker.worker_id, model], engine.cache
            preemptions.add_metric(of, engine.num_preempted)
            if cache is not None:
                queries.add_metric(of, cache.hits + cache.misses)
                hits.add_metric(of, cache.hits)
                usage.add_metric(of, cache.used_tokens / max(1, cache.capacity_tokens))
    yield from (usage, queries, hits, preemptions)
