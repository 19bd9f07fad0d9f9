"""Statistics of the whole fleet, for programs that do not read Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.dependencies import GatewayDep, ReaderId
from api.fleet_stats import GatewayView, engine_stats_view, metrics_view
from api.gateway import Gateway
from api.openai.answers import errors
from api.stats_answers import EngineStatsAnswer, MetricsAnswer
from common.errors import RedisUnavailableError
from common.fleet import Fleet

RETRY_S = 1.0

router = APIRouter(tags=["Statistics"])


@router.get(
    "/v1/metrics",
    operation_id="get_fleet_metrics",
    response_model=MetricsAnswer,
    summary="Processors, memory, GPUs, engine and cache",
    responses=errors(401, 429, 503),
)
async def metrics(gateway: GatewayDep, key_id: ReaderId) -> JSONResponse:
    """All machines with a live worker, each counted once, and all engines together."""
    return JSONResponse(metrics_view(_fleet(gateway), gateway.settings.queue_capacity))


@router.get(
    "/v1/engine/stats",
    operation_id="get_engine_stats",
    response_model=EngineStatsAnswer,
    summary="Requests, queue, latencies and throughput",
    responses=errors(401, 429, 503),
)
async def engine_stats(gateway: GatewayDep, key_id: ReaderId) -> JSONResponse:
    """By model and by worker too. Counts and latencies are of all requests since they began."""
    view = GatewayView(
        catalog=gateway.catalog,
        queue_capacity=gateway.settings.queue_capacity,
        throughput=gateway.poller.throughput,
        uptime_s=gateway.uptime_s,
    )
    return JSONResponse(engine_stats_view(_fleet(gateway), view))


def _fleet(gateway: Gateway) -> Fleet:
    """The last snapshot of the fleet.

    Raises:
        RedisUnavailableError: There is none that is fresh.
    """
    fleet = gateway.poller.fleet
    if fleet is None:
        raise RedisUnavailableError(
            "Redis, which keeps the statistics, cannot be reached right now; try again.",
            retry_after_s=RETRY_S,
        )
    return fleet
