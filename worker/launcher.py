"""`baton worker`: one worker process per device, kept alive by the supervisor.

Each process sees one device only, through CUDA_VISIBLE_DEVICES in its environment, set before
anything of it runs. When one dies, its jobs are handed back. The launcher itself never loads torch,
Celery or a model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

from common import log
from common.child_process import Child, module_environment
from common.errors import SettingsError
from common.model_catalog import ModelCatalog
from common.settings import Settings, environment_of
from common.supervisor import Supervisor
from worker.hand_back import LAUNCH_ID, HandBack

# On top of DRAIN_S: to end a step of the engine and to leave Celery.
MARGIN_S = 10.0


def run(settings: Settings) -> int:
    """Run the workers until a signal; the exit status of the command.

    Raises:
        SettingsError: DEVICE names a GPU that is not there.
    """
    # What other servers run needs no device, and one process can ask them all.
    is_remote = all(entry.is_upstream for entry in ModelCatalog(settings).served)
    device = "cpu" if is_remote else settings.device
    devices = choose_devices(device, os.environ, list_gpus)
    log.configure(settings, "launcher")
    assert settings.redis_url is not None, "the command checks it"
    hand_back = HandBack(settings, settings.redis_url)
    children = [
        worker_child(f"worker-{number}", device, settings, hand_back.launch_id)
        for number, device in enumerate(devices)
    ]
    return Supervisor(children, stop_together=True, when_ended=hand_back).run()


def stop_grace_s(settings: Settings) -> float:
    """Seconds that the launcher and its workers get to end."""
    return settings.drain_s + 2 * MARGIN_S


def worker_child(name: str, device: dict[str, str], settings: Settings, launch_id: str) -> Child:
    """One worker process, pinned to its device.

    Args:
        name: Names it in messages.
        device: The variables that pin it, from `choose_devices`.
        settings: Handed on as its environment.
        launch_id: Goes into its worker id.
    """
    environment = (
        module_environment(os.environ) | environment_of(settings) | device | {LAUNCH_ID: launch_id}
    )
    return Child(
        name=name,
        argv=[sys.executable, "-m", "worker.main"],
        env=environment,
        grace_s=settings.drain_s + MARGIN_S,
    )


def choose_devices(
    device: str, environment: Mapping[str, str], gpus: Callable[[], int | None]
) -> list[dict[str, str]]:
    """For each worker process the variables that pin it to its device.

    Args:
        device: The setting: auto, cpu, cuda or cuda:0,2. Numbers count among the GPUs that
            CUDA_VISIBLE_DEVICES leaves visible, as torch counts them.
        environment: Where CUDA_VISIBLE_DEVICES is looked up.
        gpus: Counts the machine's GPUs; None where that cannot be known.

    Raises:
        SettingsError: A GPU is named that is not there.
    """
    if device == "cpu":
        return [_cpu()]
    num_gpus = gpus()
    visible = _visible_gpus(environment, num_gpus)
    if device == "auto":
        # CUDA_VISIBLE_DEVICES alone proves no GPU: it is often set where there is none.
        return [_gpu(gpu) for gpu in visible or [] if num_gpus] or [_cpu()]
    if device == "cuda":
        if not visible:
            raise SettingsError("DEVICE=cuda: `nvidia-smi -L` shows no GPU. Example: DEVICE=cpu")
        return [_gpu(gpu) for gpu in visible]
    wanted = device.removeprefix("cuda:").split(",")
    if visible is None:
        # Nothing could be asked; a GPU that is missing is found when the worker uses it.
        return [_gpu({"CUDA_VISIBLE_DEVICES": number}) for number in wanted]
    missing = [number for number in wanted if int(number) >= len(visible)]
    if missing:
        raise SettingsError(
            f"DEVICE={device}: there is no GPU {missing[0]}; {len(visible)} can be used, counted "
            "from 0. Example: DEVICE=auto"
        )
    return [_gpu(visible[int(number)]) for number in wanted]


def list_gpus() -> int | None:
    """Count the machine's GPUs with `nvidia-smi -L`; None where there is no such program."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def _visible_gpus(
    environment: Mapping[str, str], num_gpus: int | None
) -> list[dict[str, str]] | None:
    """The GPUs that torch would see, in its order; None where that cannot be known."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None and num_gpus != 0:
        # An index or a UUID each; CUDA ends the list at the first that is no device, such as -1.
        names = [name.strip() for name in named.split(",")]
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:end]]
    if num_gpus is None:
        return None
    # nvidia-smi counts by PCI bus; without this CUDA counts by speed.
    return [
        {"CUDA_VISIBLE_DEVICES": str(i), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for i in range(num_gpus)
    ]


def _gpu(visible: dict[str, str]) -> dict[str, str]:
    # With one GPU visible, that one is always number 0.
    return {"DEVICE": "cuda:0", **visible}


def _cpu() -> dict[str, str]:
    return {"DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
