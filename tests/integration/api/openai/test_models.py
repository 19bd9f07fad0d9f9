from __future__ import annotations

from collections.abc import Callable

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from api.openai.answers import Model, ModelList
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, Start
from tests.integration.api.openai.support import MODEL, TextWorker


async def test_the_sdk_lists_the_models(openai: AsyncOpenAI, live: LiveGateway) -> None:
    [model] = [model async for model in openai.models.list()]
    assert model.id == MODEL
    assert model.object == "model"
    assert model.owned_by == "baton"
    assert model.created == live.gateway.started_at
    assert await openai.models.retrieve(MODEL) == model


async def test_loaded_is_what_a_live_worker_has(
    http: httpx.AsyncClient, start_app: Start, settings: Settings, worker: TextWorker
) -> None:
    http = await start_app(settings)  # which looks at the workers when it starts
    body = (await http.get("/v1/models")).json()
    ModelList.model_validate(body)
    assert body["object"] == "list"
    [model] = body["data"]
    assert model["loaded"]
    assert model["max_model_len"] == 1000


async def test_an_id_may_have_slashes(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    http = await start_app(make_settings(model_name="Qwen/Qwen3-0.6B"))
    response = await http.get("/v1/models/Qwen/Qwen3-0.6B")
    assert Model.model_validate(response.json()).id == "Qwen/Qwen3-0.6B"
    assert not response.json()["loaded"]


async def test_an_alias_shows_the_model(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models/default")).json()["id"] == MODEL


async def test_an_unknown_model_is_not_found(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.NotFoundError, match="Model 'a/b' not found"):
        await openai.models.retrieve("a/b")
