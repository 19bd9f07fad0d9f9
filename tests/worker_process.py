"""A real worker process, Celery included, that generates with a fake backend at a steady pace.

`python -m tests.worker_process` is the worker; `WorkerProcess` starts one. It loads no model, so it
takes permits a second after its start; only the model `ENDLESS` is loading for ever.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.model_card import ModelCard
from tests.fakes import FakeBackend, byte_tokenizer, fake_card
from worker.backends.base import Deliver, Delta

ROOT = Path(__file__).parents[1]
MODEL = "m"
ENDLESS = "endless"
PACE_S = 0.01
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class PacedBackend(FakeBackend):
    """Gives every running job its next token each `PACE_S`."""

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str]:
        if self._model == ENDLESS:
            threading.Event().wait()
        return fake_card(self._model, context_length=1_000_000), byte_tokenizer()

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                command = self._commands.get(timeout=PACE_S)
            except queue.Empty:
                command = self._next_of_all
            deliver(command())

    def _next_of_all(self) -> list[Delta]:
        return [self._next(run_id) for run_id in list(self._jobs)]


class WorkerProcess:
    """One worker without a supervisor: when it ends, it stays ended.

    Attributes:
        output: The lines that it has written so far.
    """

    def __init__(self, redis_url: str, folder: Path, **settings: Any) -> None:
        values = {"MODEL_NAME": MODEL, "REDIS_URL": redis_url, "LOG_DIR": folder} | settings
        inherited = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        self.output: list[str] = []
        self._spoke = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker_process"],
            env=inherited | {k: str(v) for k, v in values.items()} | {"PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait_until_ready(self, model: str = MODEL) -> None:
        """Wait until it takes permits of the model."""
        self.wait_for(f"Model {model} is ready on")

    def wait_for(self, text: str) -> None:
        """Wait for a line of output that contains the text; also one that came before."""

        def found() -> bool:
            return not self.is_alive or any(text in line for line in self.output)

        with self._spoke:
            self._spoke.wait_for(found, START_TIMEOUT_S)
        assert any(text in line for line in self.output), "".join(self.output)

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(signum)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    def stop(self) -> None:
        """End it as its supervisor does, or at once where it does not end."""
        if self.is_alive:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._spoke:
                    self.output.append(line)
                    self._spoke.notify_all()
        self._process.wait()
        with self._spoke:
            self._spoke.notify_all()


if __name__ == "__main__":
    import worker.main

    worker.main._create_backend = lambda entry, settings, share: PacedBackend(entry.model)
    raise SystemExit(worker.main.main())
