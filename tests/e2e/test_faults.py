"""The real process tree when something of it dies, or cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.service import ROOT, STOP_TIMEOUT_S, Service

StartService = Callable[..., Service]
STORY: dict[str, Any] = {"max_tokens": 200, "seed": 11, "ignore_eos": True, "raw": True}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def text_of(events: list[tuple[str | None, Any]]) -> str:
    return "".join(data.get("token") or "" for _, data in events)


def test_ctrl_c_ends_every_process_and_succeeds(start_service: StartService) -> None:
    service = start_service()
    service.wait_until_ready()
    pids = service.all_pids()
    assert len(pids) >= 4  # redis, launcher, worker, gateway
    assert service.stop() == 0
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.mark.parametrize(
    ("module", "signum", "settings"),
    [
        # The launcher hands the jobs back, so that a lease of an hour does not matter.
        ("worker.main", signal.SIGKILL, {"LEASE_S": 3600}),
        ("worker.main", signal.SIGTERM, {"LEASE_S": 3600, "DRAIN_S": 0}),
        # Launcher and worker die together: the lease passes.
        ("cli.main worker", signal.SIGKILL, {"LEASE_S": 2}),
    ],
    ids=["worker killed", "worker terminated", "launcher killed"],
)
def test_a_stream_goes_on_where_it_was_when_its_worker_goes(
    start_service: StartService, module: str, signum: int, settings: dict[str, Any]
) -> None:
    service = start_service(**settings)
    service.wait_until_ready()
    expected = service.result(service.submit(**STORY))
    [process] = service.pids(module)
    task_id = service.submit(**STORY)
    events = []
    for event in service.events(task_id):
        events.append(event)
        if len(events) == 4:
            os.kill(process, signum)
    assert events[-1][1]["status"] == "completed"
    assert text_of(events) == expected["result"]
    assert not any("restarted" in data for _, data in events)
    ids = [int(i) for i, _ in events if i is not None]
    assert ids == sorted(set(ids))


def test_a_worker_that_is_asked_twice_to_end_leaves_now(start_service: StartService) -> None:
    service = start_service(LEASE_S=3600, DRAIN_S=3600)
    service.wait_until_ready()
    expected = service.result(service.submit(**STORY))
    [process] = service.pids("worker.main")
    task_id = service.submit(**STORY)
    events = []
    for event in service.events(task_id):
        events.append(event)
        if len(events) in (4, 6):
            os.kill(process, signal.SIGTERM)
    assert text_of(events) == expected["result"]
    assert "Asked a second time" in (service.log_dir / "app.log").read_text()


def test_a_job_survives_that_everything_is_stopped_and_started_again(
    start_service: StartService,
) -> None:
    service = start_service()
    service.wait_until_ready()
    expected = service.result(service.submit(**STORY))
    [worker] = service.pids("worker.main")
    task_id = service.submit(**STORY)
    before = []
    for event in service.events(task_id):
        before.append(event)
        if len(before) == 4:
            os.kill(worker, signal.SIGSTOP)  # else the job could end before its stream does
            service.process.send_signal(signal.SIGINT)
    os.kill(worker, signal.SIGCONT)
    assert service.process.wait(STOP_TIMEOUT_S) == 0

    service.start()
    service.wait_until_ready()
    last = max(int(i) for i, _ in before if i is not None)
    after = list(service.events(task_id, after=last))
    assert text_of(before) + text_of(after) == expected["result"]


def test_a_stream_resumes_when_the_gateway_was_killed(start_service: StartService) -> None:
    service = start_service()
    service.wait_until_ready()
    expected = service.result(service.submit(**STORY))
    [gateway] = service.pids("cli.main api")
    task_id = service.submit(**STORY)
    before = []
    with pytest.raises(httpx.HTTPError):  # noqa: PT012 - the loop is what is broken off
        for event in service.events(task_id):
            before.append(event)
            if len(before) == 4:
                os.kill(gateway, signal.SIGKILL)
    last = max(int(i) for i, _ in before if i is not None)
    after = None
    while after is None:
        try:
            after = list(service.events(task_id, after=last))
        except httpx.TransportError:
            continue  # it is being restarted
    assert text_of(before) + text_of(after) == expected["result"]


def test_redis_is_restarted_with_what_it_had(start_service: StartService) -> None:
    service = start_service()
    service.wait_until_ready()
    task_id = service.submit(max_tokens=5)
    before = service.result(task_id)
    [redis] = service.pids("redis-server")
    os.kill(redis, signal.SIGKILL)
    service.wait_for("restart")
    transport = httpx.HTTPTransport(retries=3)
    with service.http(transport=transport) as http:
        while (answer := http.get(f"/result/{task_id}")).status_code == 503:
            assert answer.headers["Retry-After"]
        assert answer.json() == before
    assert service.result(service.submit(max_tokens=5))["status"] == "completed"


def test_a_model_that_cannot_be_loaded_fails_its_jobs_with_the_reason(
    start_service: StartService, tmp_path: Path
) -> None:
    (tmp_path / "no-model").mkdir()
    service = start_service(MODEL_NAME=tmp_path / "no-model")
    service.wait_for("The model no-model cannot be loaded")
    with service.http() as http:
        health = http.get("/health").json()
        assert (health["state"], health["model_loaded"]) == ("error", False)
        assert http.get("/ready").status_code == 503
    result = service.result(service.submit(max_tokens=5))
    assert (result["status"], result["error_type"]) == ("error", "ModelLoadError")
    assert result["error_message"].startswith("Model loading failed")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TEMPERATURE": "hot"}, "TEMPERATURE=hot"),
        ({"HOST": "0.0.0.0"}, "Example: API_KEYS="),
        ({"PORT": "0"}, "PORT=0"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name_and_an_example(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "up"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Example: " in done.stderr
