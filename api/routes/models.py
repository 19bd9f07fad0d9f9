"""The models that this deployment serves."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.answers import ModelsAnswer, errors
from api.dependencies import GatewayDep, ReaderId
from api.gateway import Gateway
from common.model_catalog import CatalogEntry

router = APIRouter(tags=["Models"])


@router.get(
    "/models",
    operation_id="list_served_models",
    response_model=ModelsAnswer,
    summary="The configured models",
    responses=errors(401, 429),
)
async def models(gateway: GatewayDep, key_id: ReaderId) -> JSONResponse:
    """`loaded` is whether a live worker has the model loaded now."""
    views = [_view(gateway, entry) for entry in gateway.catalog.entries]
    return JSONResponse({"models": views})


def _view(gateway: Gateway, entry: CatalogEntry) -> dict[str, object]:
    card, fleet = gateway.poller.known_card(entry.model), gateway.poller.fleet
    return {
        "id": entry.model,
        "name": entry.title,
        "description": entry.description,
        "format": entry.format or ("unknown" if card is None else card.format),
        "loaded": fleet is not None and fleet.state(entry.model) == "ready",
    }
