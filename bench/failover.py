"""The longest pause that a page in a browser sees when the worker of its stream goes.

Each case starts the service anew, with a real browser on the stream of one job, and ends a process
in the middle of it: `python -m bench.failover`. It asserts that the text is the undisturbed one.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from common import keys
from tests.e2e.browser import watch_stream
from tests.e2e.service import ROOT, Service
from tests.redis_server import RedisServer

ROUNDS = 3
STORY: dict[str, Any] = {"max_tokens": 1200, "seed": 5, "ignore_eos": True, "raw": True}


@dataclass(frozen=True)
class Case:
    """What is ended.

    Attributes:
        signum: Sent to the worker process that runs the job.
        with_launcher: Its launcher is killed too, before it.
        with_heir: Another worker is alive.
    """

    what: str
    signum: int
    with_launcher: bool = False
    with_heir: bool = True


CASES = (
    Case("kill -9 of the worker, another one alive", signal.SIGKILL),
    Case("SIGTERM to the worker, another one alive", signal.SIGTERM),
    Case("kill -9 of the only worker", signal.SIGKILL, with_heir=False),
    Case("kill -9 of worker and launcher, another one alive", signal.SIGKILL, with_launcher=True),
)


def run() -> str:
    """Measure every case; a table."""
    lines = [
        "The longest pause in a browser's page when the worker of its stream goes in the middle;",
        "the text is the undisturbed one each time.",
        "",
        "| what | pause: median (range) | start of the service |",
        "| --- | --- | --- |",
        *(_row(case) for case in CASES),
    ]
    return "\n".join(lines) + "\n"


def _row(case: Case) -> str:
    gaps, starts = zip(*(_measure(case) for _ in range(ROUNDS)), strict=True)
    pause = f"{statistics.median(gaps):.2f} s ({min(gaps):.2f} to {max(gaps):.2f})"
    return f"| {case.what} | {pause} | {statistics.median(starts):.1f} s |"


def _measure(case: Case) -> tuple[float, float]:
    """The longest pause, and how long the service took to load its model, in seconds."""
    with tempfile.TemporaryDirectory() as name, _running(Path(name), case) as running:
        service, client, start_s = running
        expected = service.result(service.submit(**STORY))["result"]
        url = service.submit_to_watch(**STORY)
        with watch_stream(url, Path(name)) as page:
            page.wait_until_running()
            worker = _pid_of_worker(client, url)
            if case.with_launcher:
                os.kill(_parent(worker), signal.SIGKILL)
            os.kill(worker, case.signum)
            watched = page.wait_for_end()
        assert watched.text == watched.result == expected, "the text is not the undisturbed one"
        return max(watched.gaps_ms) / 1000, start_s


@contextmanager
def _running(folder: Path, case: Case) -> Iterator[tuple[Service, redis.Redis, float]]:
    server = RedisServer(folder)
    server.start()
    service = Service(folder, REDIS_URL=server.url)
    began = time.perf_counter()
    service.start()
    heir = None
    try:
        service.wait_until_ready()
        start_s = time.perf_counter() - began
        client = redis.Redis.from_url(server.url, decode_responses=True)
        if case.with_heir:
            heir = _start_heir(folder, server.url, client)
        yield service, client, start_s
    finally:
        if heir is not None:
            heir.terminate()
            heir.wait()
        service.stop()
        server.stop()


def _start_heir(folder: Path, redis_url: str, client: redis.Redis) -> subprocess.Popen[bytes]:
    """A second launcher with a worker, ready."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis_url,
        "LOG_DIR": str(folder / "heir-logs"),
    }
    heir = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "worker"],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while _num_ready(client) < 2:
        assert heir.poll() is None, "the second worker did not start"
    return heir


def _num_ready(client: redis.Redis) -> int:
    announced = [client.get(keys.worker(i)) for i in client.zrange(keys.WORKERS, 0, -1)]
    return sum('"state": "ready"' in str(text) for text in announced)


def _pid_of_worker(client: redis.Redis, stream_url: str) -> int:
    job_id = stream_url.partition("/stream/")[2].partition("?")[0]
    return int(str(client.hget(keys.job(job_id), "worker")).split("-")[-2])


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


if __name__ == "__main__":
    print(run())
