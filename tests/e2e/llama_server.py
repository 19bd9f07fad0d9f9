"""llama.cpp's server for Python with the bundled model, from an environment of its own.

`make llama-cpp` makes it; LLAMA_CPP_PYTHON names the Python of another one.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from common.model_entries import BUNDLED_DIR
from tests.e2e.service import ROOT
from tests.ports import free_port

_MADE = ROOT / ".clients" / "llama_cpp"
PYTHON = Path(os.environ.get("LLAMA_CPP_PYTHON", _MADE / "bin" / "python"))
IS_THERE = PYTHON.exists() and (PYTHON.parents[1] != _MADE or (_MADE / ".made").exists())
WRITER = Path(__file__).parent / "llama_cpp" / "write_gguf.py"
KEY = "key-of-llama"
MODEL = "toy"
START_TIMEOUT_S = 60.0


def write_gguf(folder: Path) -> Path:
    """The bundled model as llama.cpp reads it."""
    path = folder / "toy.gguf"
    subprocess.run([PYTHON, WRITER, BUNDLED_DIR, path], check=True, timeout=60)
    return path


class LlamaServer:
    """One process, which can be killed and started again at the same port."""

    def __init__(self, gguf: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._gguf = gguf
        self._process: subprocess.Popen[str] | None = None
        self._spoke = threading.Condition()
        self._output: list[str] = []

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._output.clear()
        options = {
            "model": self._gguf,
            "model_alias": MODEL,
            "port": self.port,
            "n_ctx": 2048,
            "n_threads": 1,
            "api_key": KEY,
            # Else each request breaks off the one before it.
            "interrupt_requests": "false",
        }
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [PYTHON, "-m", "llama_cpp.server", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        with self._spoke:
            self._spoke.wait_for(lambda: self._is_up or not self._is_alive, START_TIMEOUT_S)
            assert self._is_up, "".join(self._output)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def _is_up(self) -> bool:
        return any("Uvicorn running" in line for line in self._output)

    @property
    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                with self._spoke:
                    self._output.append(line)
                    self._spoke.notify_all()
        process.wait()
        with self._spoke:
            self._spoke.notify_all()
