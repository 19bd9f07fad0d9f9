"""How the service is: for people, for load balancers, for orchestrators. No key, never slow."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.answers import Documented, HealthAnswer, LiveAnswer, ReadyAnswer
from api.dependencies import GatewayDep
from api.gateway import Gateway
from common import __version__
from common.fleet import Fleet, ModelState

router = APIRouter(tags=["Service"])


@router.get("/health", response_model=HealthAnswer, summary="How the service is")
async def health(gateway: GatewayDep) -> JSONResponse:
    """Always 200.

    `unhealthy`: Redis is away, or no worker can load the model. `degraded`: tasks are accepted,
    but no worker runs them yet.
    """
    fleet, entry = gateway.poller.fleet, gateway.catalog.default
    state, reason = _state(fleet, entry.model)
    status = {"ready": "healthy", "loading": "degraded", "error": "unhealthy"}[state]
    body = {
        "status": status,
        "state": state,
        "mode": "api_server",
        "version": __version__,
        "redis_connected": fleet is not None,
        "model_loaded": state == "ready",
        "backend": entry.backend,
        "model": entry.model,
        "available_models": [each.model for each in gateway.catalog.entries],
        "workers": 0 if fleet is None else len(fleet.workers),
        "gpu_memory": _gpu_memory(fleet),
        "queue": _queue(fleet, gateway),
        "uptime_seconds": round(gateway.uptime_s, 1),
    }
    if reason is not None:
        body["reason"] = reason
    return JSONResponse(body)


@router.get("/health/live", response_model=LiveAnswer, summary="Whether the gateway runs")
async def live() -> JSONResponse:
    """200 as long as the gateway answers at all."""
    return JSONResponse({"status": "alive"})


_NOT_READY: Documented = {503: {"model": ReadyAnswer, "description": "They are not."}}


@router.get(
    "/ready",
    response_model=ReadyAnswer,
    summary="The same, for those who ask here",
    responses=_NOT_READY,
)
@router.get(
    "/health/ready",
    response_model=ReadyAnswer,
    summary="Whether tasks are run",
    responses=_NOT_READY,
)
async def ready(gateway: GatewayDep) -> JSONResponse:
    """503 while Redis is away or no live worker has the model loaded."""
    fleet = gateway.poller.fleet
    is_ready = fleet is not None and fleet.state(gateway.catalog.default.model) == "ready"
    body = {"ready": is_ready, "engine_connected": fleet is not None and bool(fleet.workers)}
    return JSONResponse(body, 200 if is_ready else 503)


def _state(fleet: Fleet | None, model: str) -> tuple[ModelState, str | None]:
    if fleet is None:
        return "error", "Redis cannot be reached."
    served = fleet.states(model)
    state = fleet.state(model)
    if state == "error":
        reasons = [each.reason for each in served if each.reason]
        return state, reasons[0] if reasons else "No worker can load the model."
    if state == "loading":
        return state, "The model is loading." if served else "No worker is running."
    return state, None


def _gpu_memory(fleet: Fleet | None) -> dict[str, int] | None:
    workers = () if fleet is None else fleet.workers
    known = [worker.gpu_memory for worker in workers if worker.gpu_memory is not None]
    if not known:
        return None
    return {name: sum(memory[name] for memory in known) for name in ("used", "total")}


def _queue(fleet: Fleet | None, gateway: Gateway) -> dict[str, int]:
    size = 0 if fleet is None else fleet.num_queued
    return {"size": size, "capacity": gateway.settings.queue_capacity}
