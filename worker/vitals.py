"""What a worker tells of itself and its machine with every heartbeat.

Called from the heartbeat's thread: nothing here may block. Knows nothing about Redis.
"""

from __future__ import annotations

import socket
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.vitals import EngineStats, GpuVitals, HostVitals, Vitals
from worker.backends.base import Backend
from worker.gpu import GpuProbe, torch_uuid

LEAST_CPU_WINDOW_S = 1.0
"""Over less than this a share of the cores' time says nothing, and beats may follow closely."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told last of a model.

    Attributes:
        backend: Whose counts are in it.
        before: What was told of those before that one.
    """

    backend: weakref.ref[Backend]
    before: EngineStats | None
    stats: EngineStats


class VitalSigns:
    """Looks at the process, the machine, the GPU and the engines.

    Args:
        clock: Seconds, never going back.
        open_gpu: Makes the probe of a device that a model is loaded on.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        open_gpu: Callable[[str], GpuProbe] = lambda device: GpuProbe(lambda: torch_uuid(device)),
    ) -> None:
        self._clock = clock
        self._open_gpu = open_gpu
        self._began_s = clock()
        self._process = psutil.Process()
        self._machine_id = machine_id()
        self._probe: GpuProbe | None = None
        self._told: dict[str, _Told] = {}
        self._cpu_percent = 0.0
        self._cpu_times = cpu_times()
        self._cpu_read_s = self._began_s

    def read(self, backends: Mapping[str, Backend]) -> Vitals:
        """All of it, as it is now.

        Args:
            backends: Of the models that this worker serves, by model; those that are not loaded
                yet are left out.
        """
        stats = {model: backend.stats() for model, backend in backends.items()}
        engines = {
            model: self._going_on(model, backends[model], each)
            for model, each in stats.items()
            if each is not None
        }
        return Vitals(
            uptime_s=round(self._clock() - self._began_s, 1),
            rss=self._process.memory_info().rss,
            host=self._read_host(),
            # Before a model is loaded, nothing may touch the device.
            gpu=self._read_gpu({backends[model].device for model in engines}),
            engines=engines,
        )

    def _going_on(self, model: str, backend: Backend, stats: EngineStats) -> EngineStats:
        """A model that is loaded again counts on from what was told of it: no count goes back."""
        told = self._told.get(model)
        before = None if told is None else told.before
        if told is not None and told.backend() is not backend:
            before = told.stats
        found = stats if before is None else stats.after(before)
        self._told[model] = _Told(weakref.ref(backend), before, found)
        return found

    def _read_host(self) -> HostVitals:
        now = self._clock()
        if now - self._cpu_read_s >= LEAST_CPU_WINDOW_S:
            (busy, total), before = cpu_times(), self._cpu_times
            elapsed = max(total - before[1], 1e-9)
            self._cpu_percent = round(100 * min(1.0, max(0.0, busy - before[0]) / elapsed), 1)
            self._cpu_times, self._cpu_read_s = (busy, total), now
        memory = psutil.virtual_memory()
        return HostVitals(
            machine_id=self._machine_id,
            cpu_percent=self._cpu_percent,
            cpu_count=psutil.cpu_count() or 1,
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
        )

    def _read_gpu(self, devices: set[str]) -> GpuVitals | None:
        gpus = sorted(device for device in devices if device != "cpu")
        if not gpus:
            return None
        if self._probe is None:
            self._probe = self._open_gpu(gpus[0])  # a worker has one device
        return self._probe.read()


def cpu_times() -> tuple[float, float]:
    """Seconds that all cores together were busy, and all their seconds, since the machine's start.

    psutil's own percentage is of the thread that asks, and so begins at 0 in the heartbeat's.
    """
    times = psutil.cpu_times()
    # Linux counts the time of guests twice.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def machine_id() -> str:
    """A name that all workers of a machine share: containers on it have host names of their own."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()
