"""The real service: `baton up` as a process of its own, as `make up` starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
KEY = "test-key-123"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


class Service:
    """One process tree. Its settings come from the environment alone; its folder is its own.

    `PYTHONPATH` among the settings comes after this repository.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output: list[str] = []
        self.log_dir = folder / "logs"
        values = {
            "PORT": self.port,
            "DATA_DIR": folder / "data",
            "LOG_DIR": self.log_dir,
            "RATE_LIMIT_PER_MINUTE": 60_000,
            "RATE_LIMIT_BURST": 1000,
        } | settings
        inherited = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        paths = [str(ROOT), str(values.pop("PYTHONPATH", ""))]
        self._environment = inherited | {k: str(v) for k, v in values.items()}
        self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._folder = folder
        self._spoke = threading.Condition()
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The supervisor."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it, the first time or again; returns at once."""
        self.output.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up"],
            env=self._environment | {"PYTHONUNBUFFERED": "1"},
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def wait_for(self, text: str) -> str:
        """Wait for a line of output that contains the text."""
        return self.wait_until(lambda line: text in line)

    def wait_until(self, matches: Callable[[str], bool]) -> str:
        """Wait for a line of output; also one that came before."""

        def found() -> bool:
            ended = self.process.poll() is not None
            return ended or any(matches(line) for line in self.output)

        with self._spoke:
            self._spoke.wait_for(found, START_TIMEOUT_S)
            for line in self.output:
                if matches(line):
                    return line
        raise AssertionError("the line never came:\n" + "".join(self.output))

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded."""
        self.wait_for("is loaded")

    def stop(self, signum: signal.Signals = signal.SIGINT) -> int:
        """End it as Ctrl-C does; its exit status. Ended already, that is all it says."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(STOP_TIMEOUT_S)

    def pids(self, module: str) -> list[int]:
        """The processes of this tree that run a module, such as `worker.main`."""
        return [pid for pid, command in self._tree() if module in command]

    def all_pids(self) -> list[int]:
        """Every process of this tree but the supervisor."""
        return [pid for pid, _ in self._tree()]

    def http(self, **options: Any) -> httpx.Client:
        """A client with the API key."""
        return httpx.Client(
            base_url=self.url, headers={"X-API-Key": KEY}, timeout=60, trust_env=False, **options
        )

    def submit(self, prompt: str = "Once upon a time", **fields: Any) -> str:
        """Submit a job; its id."""
        return str(self._submit(prompt, fields)["task_id"])

    def submit_to_watch(self, prompt: str = "Once upon a time", **fields: Any) -> str:
        """Submit a job; the address of its stream, which opens without a key."""
        return str(self._submit(prompt, fields)["stream_url"])

    def _submit(self, prompt: str, fields: dict[str, Any]) -> dict[str, Any]:
        with self.http() as http:
            response = http.post("/generate", json={"prompt": prompt, **fields})
        assert response.status_code == 202, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def result(self, task_id: str) -> dict[str, Any]:
        """Watch a job to its end, then read its result."""
        for _ in self.events(task_id):
            pass
        with self.http() as http:
            answer: dict[str, Any] = http.get(f"/result/{task_id}").json()
        return answer

    def events(self, task_id: str, after: int | None = None) -> Iterator[tuple[str | None, Any]]:
        """The frames of a job's stream, as (id, data); ends when the stream does."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self.http() as http, http.stream("GET", f"/stream/{task_id}", headers=headers) as r:
            assert r.status_code == 200, r.status_code
            event_id = None
            for line in r.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    event_id = value
                elif name == "data":
                    yield event_id, json.loads(value)
                    event_id = None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._spoke:
                self.output.append(line)
                self._spoke.notify_all()
        process.stdout.close()
        process.wait()
        with self._spoke:
            self._spoke.notify_all()

    def _tree(self) -> list[tuple[int, str]]:
        table = subprocess.run(
            ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(maxsplit=2) for line in table.splitlines()]
        children: dict[int, list[tuple[int, str]]] = {}
        for pid, parent, command in rows:
            children.setdefault(int(parent), []).append((int(pid), command))
        found: list[tuple[int, str]] = []
        open_pids = [self.process.pid]
        while open_pids:
            for pid, command in children.get(open_pids.pop(), []):
                found.append((pid, command))
                open_pids.append(pid)
        return found
