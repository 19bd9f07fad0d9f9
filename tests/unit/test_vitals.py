"""What a worker tells of itself: nothing about the GPU may cost a worker."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from common.fleet import ServedModel, WorkerInfo
from common.sampling import SamplingSpec
from common.vitals import CacheUse, EngineStats, GpuVitals, Vitals
from tests.fakes import FakeBackend
from worker import vitals
from worker.backends.base import BackendJob
from worker.gpu import GpuProbe
from worker.vitals import VitalSigns


class NVMLError(Exception):
    pass


class FakeNvml:
    """The part of `pynvml` that is used, with one device of UUID `GPU-abc`."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError

    def __init__(self, *, driver: bool = True, slice_only: bool = False) -> None:
        self.has_driver = driver
        self.prefix = "MIG-" if slice_only else "GPU-"
        self.is_slice = slice_only
        self.num_inits = 0

    def nvmlInit(self) -> None:
        self.num_inits += 1
        if not self.has_driver:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != f"{self.prefix}abc":
            raise NVMLError("Not Found")
        return "device"

    def nvmlDeviceGetName(self, device: str) -> bytes:
        return b"NVIDIA Fake"

    def nvmlDeviceGetMemoryInfo(self, device: str) -> Any:
        return SimpleNamespace(total=100, free=60, used=40)

    def nvmlDeviceGetUtilizationRates(self, device: str) -> Any:
        if self.is_slice:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=67, memory=12)

    def nvmlDeviceGetTemperature(self, device: str, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 72

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:
        return 312_500


def probe(nvml: FakeNvml) -> GpuProbe:
    return GpuProbe(lambda: "abc", lambda: nvml)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class CountingBackend(FakeBackend):
    """Tells as many steps, tokens, hits and so on as it is made with."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def stats(self) -> EngineStats:
        count = self.count
        cache = CacheUse(100, 7, 8, 9, 10, hits=count, misses=count + 1, evictions=count + 2)
        return EngineStats(1, 2, count, count, count, cache)


class GpuBackend(FakeBackend):
    """Says that it runs on a GPU, loaded or not."""

    def __init__(self, *, loaded: bool) -> None:
        super().__init__()
        self.device = "cuda:0"
        self.is_loaded = loaded

    def stats(self) -> Any:
        return super().stats() if self.is_loaded else None


def test_a_gpu_is_told_in_our_units() -> None:
    assert probe(FakeNvml()).read() == GpuVitals("GPU-abc", "NVIDIA Fake", 67.0, 40, 100, 72, 312.5)


def test_what_a_slice_of_a_gpu_cannot_tell_is_none() -> None:
    found = probe(FakeNvml(slice_only=True)).read()
    assert found is not None
    assert (found.uuid, found.utilization_percent, found.memory_used) == ("MIG-abc", None, 40)


def test_without_a_driver_there_is_no_answer_one_line_in_the_log_and_no_second_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nvml = FakeNvml(driver=False)
    asked = probe(nvml)
    with caplog.at_level(logging.WARNING):
        assert [asked.read(), asked.read()] == [None, None]
    [record] = caplog.records
    assert "NVML Shared Library Not Found" in record.getMessage()
    assert nvml.num_inits == 1


def test_without_the_package_there_is_no_answer_and_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load() -> Any:
        raise ImportError("No module named 'pynvml'")

    asked = GpuProbe(lambda: "abc", load)
    with caplog.at_level(logging.WARNING):
        assert [asked.read(), asked.read()] == [None, None]
    assert ["nvidia-ml-py is not installed" in r.getMessage() for r in caplog.records] == [True]


def test_a_device_without_a_uuid_costs_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    def find_uuid() -> str:
        raise AttributeError("no attribute 'uuid'")

    asked = GpuProbe(find_uuid, FakeNvml)
    with caplog.at_level(logging.WARNING):
        assert [asked.read(), asked.read()] == [None, None]
    assert ["no attribute 'uuid'" in r.getMessage() for r in caplog.records] == [True]


def test_a_process_tells_of_itself_and_its_machine() -> None:
    clock = Clock()
    signs = VitalSigns(clock)
    clock.now_s += 12.5
    found = signs.read({})
    assert found.uptime_s == 12.5
    assert 0 < found.rss < found.host.memory_total
    assert 0 < found.host.memory_used <= found.host.memory_total == psutil.virtual_memory().total
    assert found.host.cpu_count == os.cpu_count()
    assert 0 <= found.host.cpu_percent <= 100
    assert (found.gpu, found.engines) == (None, {})


def test_the_share_of_the_cores_is_not_taken_over_less_than_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([(5.0, 100.0), (6.0, 104.0), (8.0, 108.0)])
    monkeypatch.setattr(vitals, "cpu_times", lambda: next(answers))
    clock = Clock()
    signs = VitalSigns(clock)
    seen = []
    for _ in range(4):
        clock.now_s += 0.5
        seen.append(signs.read({}).host.cpu_percent)
    assert seen == [0.0, 25.0, 25.0, 50.0]


def test_a_guest_is_busy_once_and_waiting_for_a_disk_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Times = namedtuple("Times", "user system idle iowait guest guest_nice")
    monkeypatch.setattr(vitals.psutil, "cpu_times", lambda: Times(50.0, 20.0, 20.0, 10.0, 5.0, 1.0))
    # What guests took is in `user` already.
    assert vitals.cpu_times() == (70.0, 100.0)


def test_the_share_of_the_cores_is_known_to_whichever_thread_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    signs = VitalSigns(clock)
    busy, total = vitals.cpu_times()
    monkeypatch.setattr(vitals, "cpu_times", lambda: (busy + 30.0, total + 40.0))
    clock.now_s += 5
    with ThreadPoolExecutor() as threads:
        found = threads.submit(signs.read, {}).result()
    assert found.host.cpu_percent > 50


def test_engines_are_told_by_model_once_they_are_loaded() -> None:
    busy = FakeBackend()
    sampling = SamplingSpec(max_tokens=2, time_limit_s=60, seed=1)
    busy.submit(BackendJob("run", (1,), sampling, "normal"))
    engines = VitalSigns().read({"a": busy, "b": GpuBackend(loaded=False)}).engines
    assert {model: engine.num_running for model, engine in engines.items()} == {"a": 1}


def test_the_gpu_is_left_alone_before_a_model_is_loaded_on_it() -> None:
    opened: list[str] = []

    def open_gpu(device: str) -> GpuProbe:
        opened.append(device)
        return probe(FakeNvml())

    backend = GpuBackend(loaded=False)
    signs = VitalSigns(open_gpu=open_gpu)
    assert (signs.read({"m": backend}).gpu, opened) == (None, [])
    backend.is_loaded = True
    gpus = [signs.read({"m": backend}).gpu for _ in range(2)]
    assert [gpu is not None and gpu.uuid for gpu in gpus] == ["GPU-abc"] * 2
    assert opened == ["cuda:0"]


def test_all_workers_of_a_machine_give_it_one_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "boot_id").write_text("5f2b\n")
    monkeypatch.setattr(vitals, "_BOOT_ID", tmp_path / "boot_id")
    assert vitals.machine_id() == "5f2b"
    monkeypatch.setattr(vitals, "_BOOT_ID", tmp_path / "none")
    assert vitals.machine_id() == os.uname().nodename


def info(vitals: Vitals | None) -> WorkerInfo:
    return WorkerInfo("w", "h", 1, "0", "cpu", 2, 0, vitals=vitals)


def test_an_announcement_comes_back_as_it_was() -> None:
    told = info(VitalSigns().read({"m": FakeBackend()}))
    assert WorkerInfo.unpack(told.pack()) == told


def test_an_announcement_of_an_older_worker_has_no_vitals() -> None:
    values = json.loads(info(None).pack())
    del values["vitals"]
    assert WorkerInfo.unpack(json.dumps(values)) == info(None)


def test_vitals_that_only_a_later_version_knows_are_passed_over() -> None:
    told = VitalSigns().read({"m": FakeBackend()})
    values = asdict(told)
    values["mood"] = "good"
    values["host"]["swap"] = 1
    values["engines"]["m"]["speed"] = 2
    assert Vitals.unpack(values) == told


def test_an_announcement_s_fields_that_only_a_later_version_knows_are_passed_over() -> None:
    told = replace(info(VitalSigns().read({})), models={"m": ServedModel("ready", revision="r")})
    values = json.loads(told.pack())
    values["mood"] = "good"
    values["models"]["m"]["speed"] = 2
    assert WorkerInfo.unpack(json.dumps(values)) == told


def test_the_fake_library_has_only_what_the_real_one_has() -> None:
    real = pytest.importorskip("pynvml")
    faked = [name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(faked) == 9
    for name in faked:
        assert hasattr(real, name)
        if name.startswith("nvmlDevice"):
            parameters = list(inspect.signature(real.__dict__[name]).parameters)
            asked = list(inspect.signature(getattr(FakeNvml, name)).parameters)
            assert len(parameters) >= len(asked) - 1


def test_the_counts_of_a_model_go_on_when_it_is_loaded_again() -> None:
    signs, first, second = VitalSigns(), CountingBackend(5), CountingBackend(3)
    signs.read({"m": first})
    signs.read({"m": first})
    assert signs.read({}).engines == {}
    assert signs.read({"m": second}).engines["m"].num_steps == 8
    second.count = 9
    assert signs.read({"m": second, "other": CountingBackend(1)}).engines == {
        "m": EngineStats(
            1, 2, 14, 14, 14, CacheUse(100, 7, 8, 9, 10, hits=14, misses=16, evictions=18)
        ),
        "other": CountingBackend(1).stats(),
    }
