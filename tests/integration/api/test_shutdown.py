from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from common import keys
from common.connection import SyncRedis
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, StartLive
from tests.integration.api.support import (
    ALICE,
    MODEL,
    HandWorker,
    eventually,
    open_stream,
    submit,
    text_of,
)
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
RUN = "from common.settings import load_settings; from api.server import run; run(load_settings())"


async def test_a_shutdown_ends_streams_and_their_clients_go_on_at_another_gateway(
    live: LiveGateway,
    start_live: StartLive,
    live_http: httpx.AsyncClient,
    worker: HandWorker,
    settings: Settings,
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "One")
    async with open_stream(live_http, task_id) as stream:
        before = [await stream.next(), await stream.next()]
        stopping = asyncio.create_task(live.stop())
        before += await stream.rest()
    await stopping
    worker.say(claim, " two")
    worker.end(claim)
    other = start_live(settings)
    async with (
        other.client() as http,
        open_stream(http, task_id, last_event_id=before[-1].eid) as stream,
    ):
        after = await stream.rest()
    assert text_of(before) == "One"
    assert text_of(after) == " two"
    assert after[-1].data["result"] == "One two"


async def test_a_shutdown_answers_those_who_wait(
    live: LiveGateway, live_http: httpx.AsyncClient, client: SyncRedis
) -> None:
    headers = {"Prefer": "wait=60"}
    waiting = asyncio.create_task(
        live_http.post("/generate", json={"prompt": "a"}, headers=headers)
    )
    await asyncio.to_thread(client.brpop, [keys.permits(MODEL)], 10)
    await eventually(lambda: live.gateway.watcher.num_watched == 1)
    await live.stop()
    response = await waiting
    assert (response.status_code, response.json()["status"]) == (202, "queued")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_gateway_process_ends_with_status_0_and_its_streams_with_it(
    redis_url: str, tmp_path: Path, worker: HandWorker, signum: signal.Signals
) -> None:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis_url,
        "API_KEYS": ALICE,
        "PORT": str(port),
        "LOG_DIR": str(tmp_path / "logs"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN), env=environment, cwd=tmp_path, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    async for line in process.stderr:
        if b"listening on" in line:
            break
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(
        base_url=base, headers={"X-API-Key": ALICE}, trust_env=False
    ) as http:
        task_id = await submit(http)
        async with open_stream(http, task_id) as stream:
            await stream.next()
            process.send_signal(signum)
            assert await stream.rest() == []
    _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert (tmp_path / "logs" / "errors.log").read_text() == ""


def run_python(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_the_app_loads_no_model_stack_and_does_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, api.main, api.server; "
        "print([m for m in ('torch', 'transformers', 'celery', 'kombu') if m in sys.modules])"
    )
    done = run_python(code, tmp_path, REDIS_URL="nonsense")
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert list(tmp_path.iterdir()) == []


def test_asking_for_the_app_builds_it_as_uvicorn_does(tmp_path: Path) -> None:
    code = "import api.main; print(api.main.app.title)"
    done = run_python(code, tmp_path, REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (0, "Baton\n")


def test_without_redis_url_the_start_stops_with_an_example(tmp_path: Path) -> None:
    done = run_python("import api.main; api.main.app", tmp_path)
    assert done.returncode != 0
    assert "SettingsError: REDIS_URL is not set" in done.stderr
    assert "Example: REDIS_URL=redis://" in done.stderr
