"""The loader thread: loads and unloads models one after the other, as `Residency` decides.

One at a time, for the memory of a model is measured when it is loaded, and transformers changes
global state while it builds one. Engines run on beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from common.errors import ModelLoadError, RedisUnavailableError
from common.fleet import FleetWriter
from common.schemas import JobClass
from worker.backends.base import MemoryShare
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.publisher import Publisher
from worker.registry import ModelRegistry
from worker.residency import Residency, Step

PERIOD_S = 0.25

log = logging.getLogger(__name__)

CreateHost = Callable[[str, MemoryShare], EngineHost]
"""Makes the host of a model, by its id and its part of the memory; nothing is loaded by it.

Raises:
    ModelLoadError: There is nothing that could run the model.
"""


class Loader:
    """Keeps the right models in memory.

    Args:
        on_change: Called when what the worker announces has changed.
        on_loaded: Called with a model that has been loaded.
        held: The jobs that run.
        hand_back: Hands back what a model runs and the registry says is to be handed back.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        create_host: CreateHost,
        fleet: FleetWriter,
        publisher: Publisher,
        on_change: Callable[[], None],
        on_loaded: Callable[[str], None],
        held: HeldJobs,
        hand_back: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._create_host = create_host
        self._fleet = fleet
        self._publisher = publisher
        self._on_change = on_change
        self._on_loaded = on_loaded
        self._held = held
        self._hand_back = hand_back
        self._residency = Residency(registry.models, registry.capacity)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Load no more. A load that is under way cannot be broken off, and is not waited for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * PERIOD_S)

    @property
    def is_alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            views = self._registry.views(self._waiting(), self._held.first_classes())
            step = self._residency.next_step(views, time.monotonic())
            if step is None:
                if self._registry.refresh(self._fleet):
                    self._on_change()
                for model in self._registry.lost():
                    self._unload(model, "its servers do not have it any more")
                self._stop.wait(PERIOD_S)
            else:
                self._do(step)
                self._on_change()

    def _waiting(self) -> dict[str, dict[JobClass, int]]:
        """Jobs in line of each model; where all have room, nobody has to know."""
        models = self._registry.models
        if self._registry.has_room_for_all:
            return {}
        try:
            return self._fleet.waiting(models)
        except RedisUnavailableError:
            return {}

    def _do(self, step: Step) -> None:
        if step.verb == "load":
            self._load(step.model)
        elif step.verb == "unload":
            self._unload(step.model, "others need its room")
        elif step.verb == "resume":
            self._registry.hold(step.model, is_held=False)
        elif step.verb == "hold":
            self._registry.hold(step.model, is_held=True)
            log.info("Model %s takes no more jobs: others have waited long", step.model)
        else:
            self._registry.hold(step.model, is_held=True, yields_to=step.to)
            self._registry.note_lost(step.model, self._held.lost_s(step.model, time.monotonic()))
            log.info("Model %s gives way to a job of class %s for another", step.model, step.to)
            self._hand_back(step.model)

    def _load(self, model: str) -> None:
        self._registry.note_loading(model)
        self._on_change()
        began_s = time.monotonic()
        try:
            host = self._create_host(model, self._registry.memory_share())
            is_there = host.load(self._fleet, self._stop)
        except ModelLoadError as error:
            retry_s = self._registry.note_failure(model, error)
            log.error("Model %s: %s; next attempt in %.0f s", model, error.message, retry_s)
            return
        if is_there:
            host.start(self._publisher)
            self._registry.put(model, host, time.monotonic() - began_s)
            self._on_loaded(model)

    def _unload(self, model: str, reason: str) -> None:
        host = self._registry.take_out(model)
        if host is None:  # a job has come meanwhile
            return
        self._on_change()
        host.stop()
        host.close()
        log.info("Model %s is unloaded: %s", model, reason)
