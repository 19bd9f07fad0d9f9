"""The models of one worker: which of them are loaded, and how many jobs each of them runs.

A task holds its model while it runs (`use`), so that it is not unloaded under it. Knows nothing
about Redis or Celery; when a model is loaded or unloaded, `worker.loader` decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from common.errors import ModelLoadError
from common.fleet import FleetWriter, ServedModel
from common.model_catalog import CatalogEntry
from common.schemas import JOB_CLASSES, JobClass
from worker.backends.base import Backend, MemoryShare
from worker.host import EngineHost
from worker.residency import ModelView

FIRST_RETRY_S = 5.0
MOST_PASSING_FAILURES = 3
MAX_RETRY_S = 60.0


class ModelBusy(Exception):
    """This worker takes no job of the model now; the permit stays for others, or for later."""


@dataclass
class _Slot:
    """One model; guarded by the registry's lock."""

    entry: CatalogEntry
    is_of_the_start: bool
    is_found: bool = False
    is_gone: bool = False
    host: EngineHost | None = None
    is_held: bool = False
    yields_to: JobClass | None = None
    is_loading: bool = False
    num_running: int = 0
    used_at_s: float = 0.0
    loaded_at_s: float = 0.0
    load_s: float = 0.0
    lost_s: float = 0.0
    retry_s: float = FIRST_RETRY_S
    retry_at_s: float = 0.0
    was_tried: bool = False
    num_failures: int = 0
    error: ModelLoadError | None = None
    away: str | None = None

    @property
    def takes_jobs(self) -> bool:
        return self.host is not None and not self.is_held and self.host.backend.away is None

    @property
    def is_full(self) -> bool:
        return self.num_running >= self.entry.max_batch_size

    def view(self, waiting: Mapping[JobClass, int], first_running: JobClass | None) -> ModelView:
        return ModelView(
            model=self.entry.model,
            is_loaded=self.host is not None,
            is_held=self.is_held,
            num_running=self.num_running,
            num_waiting=sum(waiting.values()),
            used_at_s=self.used_at_s,
            loaded_at_s=self.loaded_at_s,
            load_s=self.load_s,
            lost_s=self.lost_s,
            retry_at_s=self.retry_at_s,
            was_tried=self.was_tried,
            has_failed=self.num_failures > 0,
            is_yielding=self.yields_to is not None,
            first_running=first_running,
            first_waiting=next((c for c in JOB_CLASSES if waiting.get(c)), None),
            is_found=self.is_found,
        )

    def note_there(self) -> None:
        """It is on its servers again: whatever was wrong may be so no more."""
        self.is_gone, self.error, self.num_failures = False, None, 0
        self.retry_s, self.retry_at_s = FIRST_RETRY_S, 0.0

    def note_gone(self) -> None:
        self.is_gone = True
        self.error = ModelLoadError(
            f"Model loading failed: the Ollama server has no model {self.entry.source} any more; "
            f"`ollama pull {self.entry.source}` gets it"
        )

    def announcement(self, is_consuming: bool) -> ServedModel:
        if self.error is not None:
            return ServedModel("error", self.error.message)
        away = None if self.host is None else self.host.backend.away
        if away is not None:
            return ServedModel("loading", away)
        if self.host is not None and self.host.card is not None and is_consuming:
            return ServedModel("ready", revision=self.host.card.fingerprint)
        is_awaited = self.is_of_the_start and not self.was_tried
        if self.host is not None or self.is_loading or is_awaited or self.num_failures:
            return ServedModel("loading")
        return ServedModel("unloaded")


class ModelRegistry:
    """All models that a worker serves. Thread-safe.

    Args:
        entries: In the order in which they are loaded at the start.
        capacity: Models that are loaded at once, at most.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        entries: Sequence[CatalogEntry],
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = min(capacity, len(entries))
        self._clock = clock
        self._lock = threading.Lock()
        self._slots = {
            entry.model: _Slot(entry, is_of_the_start=i < capacity)
            for i, entry in enumerate(entries)
        }
        rooms = sorted((entry.max_batch_size for entry in entries), reverse=True)
        self.num_slots = sum(rooms[: self.capacity])
        """Jobs that can run at once, whichever models are loaded."""
        self._found: frozenset[str] | None = None

    @property
    def models(self) -> list[str]:
        """Their ids."""
        return list(self._slots)

    @property
    def found(self) -> tuple[str, ...] | None:
        """Models that were found on other servers besides; None: nobody has looked yet."""
        with self._lock:
            slots = self._slots.items()
            found = tuple(m for m, slot in slots if slot.is_found and not slot.is_gone)
            return None if self._found is None else found

    def note_found(self, entries: Sequence[CatalogEntry]) -> list[str]:
        """Serve the models that were found on other servers, and no others that were before.

        Jobs of one that is not there any more are failed.

        Returns:
            Those that were not served before.
        """
        with self._lock:
            there = frozenset(entry.model for entry in entries)
            new = [entry for entry in entries if entry.model not in self._slots]
            slots = {
                entry.model: _Slot(entry, is_of_the_start=True, is_found=True) for entry in new
            }
            self._slots = self._slots | slots  # whoever reads it without the lock has the old one
            for model, slot in self._slots.items():
                if model in there - (self._found or frozenset()):
                    slot.note_there()
                elif slot.is_found and model not in there:
                    slot.note_gone()
            self._found = there
            return list(slots)

    def lost(self) -> list[str]:
        """Loaded models whose servers do not have them any more."""
        with self._lock:
            slots = self._slots.items()
            return [m for m, s in slots if s.host is not None and s.host.backend.is_lost]

    @property
    def has_room_for_all(self) -> bool:
        """Whether all models can be loaded at once."""
        with self._lock:
            return self.capacity >= sum(not slot.is_found for slot in self._slots.values())

    def entry(self, model: str) -> CatalogEntry:
        """What the settings say of a model."""
        return self._slots[model].entry

    @contextmanager
    def use(self, model: str) -> Iterator[EngineHost]:
        """Hold a loaded model, and one of its places, for the time of the block.

        Raises:
            ModelBusy: It is not loaded, or takes no more jobs.
        """
        with self._lock:
            slot = self._slots.get(model)
            if slot is None or slot.host is None or not slot.takes_jobs or slot.is_full:
                raise ModelBusy(model)
            slot.num_running += 1
            slot.used_at_s = self._clock()
            host = slot.host
        try:
            yield host
        finally:
            with self._lock:
                slot.num_running -= 1
                slot.used_at_s = self._clock()

    def is_open(self, model: str) -> bool:
        """Whether permits of the model are of use now."""
        with self._lock:
            slot = self._slots[model]
            return slot.takes_jobs and not slot.is_full

    def takes_jobs(self, model: str) -> bool:
        """Whether those who hold a place of the model may take another job."""
        with self._lock:
            return self._slots[model].takes_jobs

    def is_crowded(self, model: str) -> bool:
        """Whether all places of the model are taken, while threads wait for other models' jobs.

        Then no permit of it is taken, and whoever has a place has to go on by itself.
        """
        with self._lock:
            return len(self._slots) > 1 and self._slots[model].is_full

    def abort(self, run_id: str) -> None:
        """Run a job no longer, whichever model runs it."""
        for host in self._hosts():
            host.abort(run_id)

    @property
    def step_s(self) -> float:
        """Seconds for which the longest of the engines' present steps has been running."""
        return max((host.backend.step_s for host in self._hosts()), default=0.0)

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes `used` and `total` of the GPU; None on a CPU, and while nothing is loaded."""
        return next((host.backend.gpu_memory() for host in self._hosts()), None)

    def backends(self) -> dict[str, Backend]:
        """Those of the loaded models."""
        with self._lock:
            return {m: s.host.backend for m, s in self._slots.items() if s.host is not None}

    def announcements(self, *, is_consuming: bool) -> dict[str, ServedModel]:
        """The state of every model.

        Args:
            is_consuming: Whether permits are taken; a loaded model is of no use before.
        """
        with self._lock:
            return {m: slot.announcement(is_consuming) for m, slot in self._slots.items()}

    def errors(self) -> Mapping[str, ModelLoadError]:
        """Why models cannot be loaded, while that is so."""
        with self._lock:
            return {m: slot.error for m, slot in self._slots.items() if slot.error is not None}

    def views(
        self,
        waiting: Mapping[str, Mapping[JobClass, int]],
        first_running: Mapping[str, JobClass],
    ) -> list[ModelView]:
        """What `Residency` decides from.

        Args:
            waiting: Jobs in line of each model and class.
            first_running: The highest class of the jobs that each model runs.
        """
        with self._lock:
            return [
                slot.view(waiting.get(model, {}), first_running.get(model))
                for model, slot in self._slots.items()
                if not (slot.is_gone and slot.host is None)
            ]

    @property
    def loaded(self) -> list[str]:
        """The models that are loaded."""
        with self._lock:
            return [model for model, slot in self._slots.items() if slot.host is not None]

    def memory_share(self) -> MemoryShare:
        """Of the next model that is loaded; those that other servers run take none."""
        with self._lock:
            local = [slot for slot in self._slots.values() if not slot.entry.is_upstream]
        num_loaded = sum(slot.host is not None for slot in local)
        return MemoryShare(max(1, min(self.capacity, len(local))), num_loaded)

    def note_loading(self, model: str) -> None:
        """A load begins."""
        with self._lock:
            slot = self._slots[model]
            slot.is_loading = True
            if not slot.is_of_the_start:
                slot.error = None  # jobs brought it about: they wait for how it ends

    def put(self, model: str, host: EngineHost, load_s: float) -> None:
        """The model is loaded and runs."""
        with self._lock:
            slot = self._slots[model]
            slot.host, slot.is_loading, slot.was_tried = host, False, True
            slot.num_failures, slot.error = 0, None
            slot.retry_s, slot.retry_at_s = FIRST_RETRY_S, 0.0
            slot.load_s, slot.loaded_at_s = load_s, self._clock()
            slot.used_at_s = slot.loaded_at_s

    def note_failure(self, model: str, error: ModelLoadError) -> float:
        """The model cannot be loaded; the seconds until the next attempt, ever more."""
        with self._lock:
            slot = self._slots[model]
            slot.is_loading, slot.was_tried = False, True
            slot.num_failures += 1
            if slot.num_failures >= MOST_PASSING_FAILURES or not error.may_pass:
                slot.error = error  # jobs are failed for it
            retry_s, slot.retry_s = slot.retry_s, min(2 * slot.retry_s, MAX_RETRY_S)
            slot.retry_at_s = self._clock() + retry_s
            return retry_s

    def refresh(self, fleet: FleetWriter) -> bool:
        """Look at loaded models whose servers are elsewhere; whether one has come or gone."""
        for host in self._hosts():
            host.refresh(fleet)
        with self._lock:
            before = {model: slot.away for model, slot in self._slots.items()}
            for slot in self._slots.values():
                slot.away = None if slot.host is None else slot.host.backend.away
            return before != {model: slot.away for model, slot in self._slots.items()}

    def hold(self, model: str, *, is_held: bool, yields_to: JobClass | None = None) -> None:
        """Let a loaded model take no more jobs, or take jobs again.

        With `yields_to` those that it runs of lower classes are to be handed back.
        """
        with self._lock:
            slot = self._slots[model]
            slot.is_held, slot.yields_to = is_held, yields_to

    def note_lost(self, model: str, lost_s: float) -> None:
        """The model gives way, and a job that ran for so many seconds will have to begin anew."""
        with self._lock:
            self._slots[model].lost_s = lost_s

    def yields(self, model: str, job_class: JobClass) -> bool:
        """Whether the model hands back its jobs of a class, to give way to a higher one."""
        with self._lock:
            to = self._slots[model].yields_to
            return to is not None and JOB_CLASSES.index(job_class) > JOB_CLASSES.index(to)

    def take_out(self, model: str) -> EngineHost | None:
        """Take out a model that runs nothing, so that it can be stopped; None: it runs jobs."""
        with self._lock:
            slot = self._slots[model]
            if slot.num_running:
                return None
            host, slot.host = slot.host, None
            slot.is_held, slot.yields_to = False, None
            return host

    def stop(self) -> None:
        """Stop every engine; jobs that run are left as they are."""
        for host in self._hosts():
            host.stop()

    def _hosts(self) -> list[EngineHost]:
        with self._lock:
            return [slot.host for slot in self._slots.values() if slot.host is not None]
