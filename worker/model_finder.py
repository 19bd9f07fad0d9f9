"""Looks, again and again, at which models the Ollama servers have, and has the worker serve them.

On a thread of its own. A server that is away takes nothing with it: its models stay until it says
that it has them no more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

import httpx

from common.model_catalog import CatalogEntry, ollama_entry
from common.settings import Settings
from worker.backends.ollama_wire import OllamaWire
from worker.backends.wire import UpstreamFailure
from worker.registry import ModelRegistry

LOOK_S = 5.0
LOOK_TIMEOUT_S = 5.0
MAX_MODELS = 64
"""Each has a thread that looks after it."""

log = logging.getLogger(__name__)


class ModelFinder:
    """Keeps the registry in step with the servers.

    Args:
        on_found: Called after each look that changed something, with the models that are new.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        settings: Settings,
        wire: OllamaWire,
        on_found: Callable[[Sequence[str]], None],
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._wire = wire
        self._on_found = on_found
        self._by_server: dict[str, list[str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="finder", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a look that is under way is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        asyncio.run(self._look_again_and_again())

    async def _look_again_and_again(self) -> None:
        async with httpx.AsyncClient(timeout=LOOK_TIMEOUT_S) as client:
            while not self._stop.is_set():
                await self.look(client)
                await asyncio.to_thread(self._stop.wait, LOOK_S)

    async def look(self, client: httpx.AsyncClient) -> None:
        """Look once at each server."""
        for url in self._settings.base_urls("ollama"):
            try:
                self._by_server[url] = await self._wire.models(client, url)
            except UpstreamFailure as failure:
                log.debug("No list of models: %s", failure)  # its default model's pool tells it
        if self._by_server:
            self._serve(sorted({model for each in self._by_server.values() for model in each}))

    def _serve(self, models: Sequence[str]) -> None:
        before = self._registry.found
        entries = [self._entry(model) for model in models[:MAX_MODELS]]
        new = self._registry.note_found(entries)
        if self._registry.found != before:
            log.info("Models found: %s", ", ".join(models[:MAX_MODELS]) or "none")
            if len(models) > MAX_MODELS:
                log.warning("The servers have %d models; no more are offered", len(models))
            self._on_found(new)

    def _entry(self, model: str) -> CatalogEntry:
        return ollama_entry(model, self._settings)
