"""How the worker's GPU is, as the driver's management library (NVML) tells.

Without the library, the driver or the device there is no answer, one line in the log, and no error:
figures are not worth a worker. Knows nothing about Redis or models.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from common.vitals import GpuVitals

T = TypeVar("T")

log = logging.getLogger(__name__)


class GpuProbe:
    """Asks for one GPU; starts the library when it is first asked.

    Args:
        find_uuid: The GPU's UUID without its prefix, called once. torch and NVML count devices in
            different orders, so that an index would name another one.
        load: Loads the `pynvml` module.
    """

    def __init__(
        self,
        find_uuid: Callable[[], str],
        load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
    ) -> None:
        self._find_uuid = find_uuid
        self._load = load
        self._nvml: Any = None
        self._device: Any = None
        self._uuid = ""
        self._is_out_of_reach = False

    def read(self) -> GpuVitals | None:
        """The GPU as it is now; None where it cannot be asked."""
        if self._is_out_of_reach:
            return None
        if self._device is None and not self._open():
            return None
        nvml, device = self._nvml, self._device
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(device))
        utilization = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(device))
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(device))
        return GpuVitals(
            uuid=self._uuid,
            name=self._ask(lambda: _text(nvml.nvmlDeviceGetName(device))),
            utilization_percent=None if utilization is None else float(utilization.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            temperature_c=self._ask(
                lambda: float(nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU))
            ),
            power_w=None if milliwatts is None else milliwatts / 1000,
        )

    def _open(self) -> bool:
        try:
            self._nvml = self._load()
        except ImportError:
            return self._give_up("the package nvidia-ml-py is not installed")
        try:
            bare = self._find_uuid()
            self._nvml.nvmlInit()
            self._device, self._uuid = self._find_device(bare)
        # The last two: torch, or a build of it without UUIDs.
        except (self._nvml.NVMLError, RuntimeError, AttributeError) as error:
            return self._give_up(str(error))
        return True

    def _find_device(self, bare: str) -> tuple[Any, str]:
        try:
            return self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}"), f"GPU-{bare}"
        except self._nvml.NVMLError:  # a slice of one has a UUID of its own
            return self._nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}"), f"MIG-{bare}"

    def _give_up(self, why: str) -> bool:
        self._is_out_of_reach = True
        log.warning("The GPU's utilisation, temperature and power are not known: %s", why)
        return False

    def _ask(self, question: Callable[[], T]) -> T | None:
        # Not every device answers every question: a slice of one knows no utilisation of its own.
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def torch_uuid(device: str) -> str:
    """The UUID of torch's device, without its prefix; it must be a GPU that is in use already."""
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid.removeprefix("GPU-").removeprefix("MIG-")


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
