"""How the service is: for people, for load balancers, for orchestrators. No key, never slow."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.answers import Documented, HealthAnswer, LiveAnswer, ReadyAnswer
from api.dependencies import GatewayDep
from api.gateway import Gateway
from api.service_health import health_of
from common import __version__
from common.fleet import Fleet

router = APIRouter(tags=["Service"])


@router.get(
    "/health", operation_id="get_health", response_model=HealthAnswer, summary="How the service is"
)
async def health(gateway: GatewayDep) -> JSONResponse:
    """Always 200.

    `unhealthy`: Redis is away, or no worker can load any model. `degraded`: tasks are accepted,
    but those of some model are not run yet, or fail, or wait for a model that is not configured any
    more. `reason` names all that is wrong. `state` and `model_loaded` are those of the default
    model, `ready` also where it is loaded on demand.
    """
    fleet, entry = gateway.poller.fleet, gateway.catalog.default
    health = health_of(fleet, gateway.catalog.models, gateway.settings)
    state = "error" if fleet is None else fleet.state(entry.model)
    body = {
        "status": health.status,
        "state": "ready" if fleet is not None and fleet.can_run(entry.model) else state,
        "mode": "api_server",
        "version": __version__,
        "redis_connected": fleet is not None,
        "model_loaded": state == "ready",
        "backend": entry.backend,
        "model": entry.model,
        "available_models": gateway.catalog.models,
        "workers": 0 if fleet is None else len(fleet.workers),
        "gpu_memory": _gpu_memory(fleet),
        "queue": _queue(fleet, gateway),
        "uptime_seconds": round(gateway.uptime_s, 1),
    }
    if health.reason is not None:
        body["reason"] = health.reason
    return JSONResponse(body)


@router.get(
    "/health/live",
    operation_id="get_liveness",
    response_model=LiveAnswer,
    summary="Whether the gateway runs",
)
async def live() -> JSONResponse:
    """200 as long as the gateway answers at all."""
    return JSONResponse({"status": "alive"})


_NOT_READY: Documented = {503: {"model": ReadyAnswer, "description": "They are not."}}


@router.get(
    "/ready",
    operation_id="get_ready",
    response_model=ReadyAnswer,
    summary="The same, for those who ask here",
    responses=_NOT_READY,
)
@router.get(
    "/health/ready",
    operation_id="get_readiness",
    response_model=ReadyAnswer,
    summary="Whether tasks are run",
    responses=_NOT_READY,
)
async def ready(gateway: GatewayDep) -> JSONResponse:
    """503 while Redis is away, or no live worker has a model loaded or loads it on demand."""
    fleet, entries = gateway.poller.fleet, gateway.catalog.entries
    is_ready = fleet is not None and any(fleet.can_run(each.model) for each in entries)
    body = {"ready": is_ready, "engine_connected": fleet is not None and bool(fleet.workers)}
    return JSONResponse(body, 200 if is_ready else 503)


def _gpu_memory(fleet: Fleet | None) -> dict[str, int] | None:
    workers = () if fleet is None else fleet.workers
    known = [worker.gpu_memory for worker in workers if worker.gpu_memory is not None]
    if not known:
        return None
    return {name: sum(memory[name] for memory in known) for name in ("used", "total")}


def _queue(fleet: Fleet | None, gateway: Gateway) -> dict[str, int]:
    size = 0 if fleet is None else fleet.num_queued
    return {"size": size, "capacity": gateway.settings.queue_capacity}
