"""The gateway's ASGI app: `create_app(settings)`, or `uvicorn api.main:app`.

Importing this module does nothing; asking it for `app` reads the environment and builds one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from api import error_handlers, openapi
from api.gateway import Gateway
from api.middleware import AccessLog, BodyLimit, Errors, HeadAsGet, RequestId, SecurityHeaders
from api.routes import (
    batch_generate,
    batches,
    files,
    generate,
    health,
    infer,
    metrics,
    models,
    openai_embeddings,
    openai_generate,
    openai_models,
    openai_responses,
    root,
    stats,
    stream,
    tasks,
    tokenize,
)
from common import __version__, log
from common.settings import Settings, load_settings

_ROUTES = (
    *(root, generate, batch_generate, infer, tasks, stream, tokenize, models),
    *(openai_generate, openai_responses, openai_embeddings, openai_models, files, batches),
    *(stats, health, metrics),
)
_EXPOSED = [
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "X-Baton-Model",
    "X-Request-ID",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the gateway; it connects when it starts.

    Args:
        settings: None reads the environment and `.env`.

    Raises:
        SettingsError: A setting is wrong, or there is no REDIS_URL.
    """
    gateway = Gateway.build(settings or load_settings())
    app: FastAPI = FastAPIOffline(
        title=openapi.TITLE,
        version=__version__,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        # No badge from the validator's host.
        swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},
        middleware=_middleware(gateway),
        lifespan=_lifespan,
    )
    app.state.gateway = gateway
    gateway.http_metrics.registry.register(metrics.GatewayCollector(gateway))
    for routes in _ROUTES:
        app.include_router(routes.router)
    error_handlers.install(app)
    openapi.install(app)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        settings = load_settings()
        log.configure(settings, "gateway")
        return create_app(settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    gateway: Gateway = app.state.gateway
    # uvicorn's own access log writes whole addresses, with the keys and tokens in them.
    logging.getLogger("uvicorn.access").disabled = True
    async with gateway.running():
        yield


def _middleware(gateway: Gateway) -> list[Middleware]:
    """From the outside in."""
    return [
        Middleware(RequestId),
        Middleware(AccessLog, observe=gateway.http_metrics.observe),
        Middleware(SecurityHeaders),
        Middleware(
            CORSMiddleware,
            allow_origins=gateway.settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE", "OPTIONS"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        ),
        Middleware(Errors),
        Middleware(BodyLimit),
        Middleware(HeadAsGet),
    ]
