"""How much memory a worker's cache may take."""

from pathlib import Path

import psutil
import pytest
import torch

from worker.backends.base import MemoryShare
from worker.backends.cache_budget import CPU_SHARE, available_bytes, compute_cache_bytes

GIB = 2**30


@pytest.fixture
def group(tmp_path: Path) -> Path:
    (tmp_path / "memory.max").write_text(f"{3 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 20}\n")
    return tmp_path


def test_what_the_operator_allows_is_what_it_takes() -> None:
    assert (
        compute_cache_bytes("cpu", cache_gib=1.5, gpu_fraction=0.9, share=MemoryShare())
        == 1.5 * GIB
    )


def test_the_models_of_a_worker_share_what_the_operator_allows() -> None:
    share = MemoryShare(num_models=3, num_loaded=1)
    assert compute_cache_bytes("cpu", cache_gib=1.5, gpu_fraction=0.9, share=share) == 0.5 * GIB


@pytest.mark.parametrize(("num_loaded", "gib"), [(0, 20), (1, 40), (2, 40)])
def test_on_a_gpu_the_models_that_are_still_to_come_share_what_is_left(
    monkeypatch: pytest.MonkeyPatch, num_loaded: int, gib: int
) -> None:
    # 100 GiB, 90 of them to be used, 50 used: 40 are left.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * GIB, 100 * GIB))
    share = MemoryShare(2, num_loaded)
    got = compute_cache_bytes("cuda:0", cache_gib=None, gpu_fraction=0.9, share=share)
    assert got == gib * GIB


def test_on_a_cpu_it_leaves_a_share_of_the_free_memory_to_others() -> None:
    got = compute_cache_bytes("cpu", cache_gib=None, gpu_fraction=0.9, share=MemoryShare())
    assert 0 < got <= CPU_SHARE * psutil.virtual_memory().total


def test_a_container_may_take_what_its_limit_leaves(group: Path) -> None:
    assert available_bytes(group) == 2 << 20


def test_a_container_over_its_limit_may_take_nothing(group: Path) -> None:
    (group / "memory.current").write_text(f"{4 << 20}\n")
    assert available_bytes(group) == 0


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_the_hosts_memory_counts(group: Path, limit: str | None) -> None:
    (group / "memory.max").unlink()
    if limit is not None:
        (group / "memory.max").write_text(f"{limit}\n")
    assert available_bytes(group) > 3 << 20
