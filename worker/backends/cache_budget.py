"""How much memory the keys and values of a worker's jobs may take."""

from pathlib import Path

import psutil
import torch

from worker.backends.base import MemoryShare

_CGROUP = Path("/sys/fs/cgroup")
CPU_SHARE = 0.5
"""Of the memory that is free once the model is loaded; the rest is for forwards and for others."""


def compute_cache_bytes(
    device: str, *, cache_gib: float | None, gpu_fraction: float, share: MemoryShare
) -> int:
    """Return the most bytes of one model's cache, once the model is loaded.

    Args:
        device: `cpu`, or a GPU such as `cuda:0`.
        cache_gib: What the operator allows for all models of the worker, in GiB; None: what the
            machine has left.
        gpu_fraction: Share of a GPU's memory that weights and caches together may take, in (0, 1].
        share: What part of it is this model's.
    """
    if cache_gib is not None:
        return int(cache_gib * 2**30) // share.num_models
    if device == "cpu":
        # The caches of the others count as free until they are written to: an equal part each.
        return int(CPU_SHARE * available_bytes(_CGROUP)) // share.num_models
    # Here they are taken at the start: of what is left a part for each model that is still to come.
    free, total = torch.cuda.mem_get_info(device)
    num_to_come = max(1, share.num_models - share.num_loaded)
    return max(0, int(gpu_fraction * total) - (total - free)) // num_to_come


def available_bytes(cgroup: Path) -> int:
    """Return the memory that this process could still take: the host's, or its container's.

    Args:
        cgroup: Folder of the control group, version 2; where it has no limit, the host's counts.
    """
    host = int(psutil.virtual_memory().available)
    try:
        limit = int((cgroup / "memory.max").read_text())
        current = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or its limit reads "max"
        return host
    return max(0, min(host, limit - current))
