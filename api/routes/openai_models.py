"""The models as OpenAI lists them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from api.dependencies import GatewayDep, ReaderId
from api.gateway import Gateway
from api.openai.answers import Model, ModelList, errors
from common.model_catalog import CatalogEntry

OWNER = "baton"

router = APIRouter(prefix="/v1", tags=["OpenAI"])

ModelName = Annotated[str, Path(description="An id of the list, or an alias.")]


@router.get(
    "/models",
    operation_id="list_models",
    response_model=ModelList,
    summary="List the models",
    responses=errors(401, 429),
)
async def models(gateway: GatewayDep, key_id: ReaderId) -> JSONResponse:
    """The configured models; `loaded` is whether a live worker has one loaded now."""
    listed = [_view(gateway, entry) for entry in gateway.catalog.entries]
    return JSONResponse({"object": "list", "data": listed})


@router.get(
    "/models/{model:path}",
    operation_id="retrieve_model",
    response_model=Model,
    summary="Look at one model",
    responses=errors(401, 404, 429),
)
async def model(gateway: GatewayDep, key_id: ReaderId, model: ModelName) -> JSONResponse:
    """By its id or an alias; an id may have slashes in it."""
    return JSONResponse(_view(gateway, gateway.catalog.resolve(model)))


def _view(gateway: Gateway, entry: CatalogEntry) -> dict[str, Any]:
    card, fleet = gateway.poller.known_card(entry.model), gateway.poller.fleet
    return {
        "id": entry.model,
        "object": "model",
        # Nobody knows when a model was made: since when this gateway has offered it.
        "created": gateway.started_at,
        "owned_by": OWNER,
        "description": entry.description,
        "loaded": fleet is not None and fleet.state(entry.model) == "ready",
        "max_model_len": None if card is None else card.context_length,
    }
