"""llama.cpp's server with the suite's model, for a run whose workers have it generate."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx

from tests.chaos.model import CONTEXT_LENGTH, write_letter_model
from tests.chaos.process import POLL_S, ServiceProcess
from tests.e2e.llama_server import PYTHON, WRITER
from tests.ports import free_port

NAME = "letters"
START_TIMEOUT_S = 60.0


class Upstream:
    """One server that is killed and started again at the same port.

    Args:
        folder: Takes its model and its output.

    Attributes:
        busy: Held by the fault that breaks it.
    """

    def __init__(self, folder: Path) -> None:
        self._model, self._gguf = folder / "upstream-model", folder / "letters.gguf"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self.busy = asyncio.Lock()
        self.process = ServiceProcess(
            "upstream",
            [
                *(str(PYTHON), "-m", "llama_cpp.server", "--model", str(self._gguf)),
                *("--model_alias", NAME, "--port", str(port), "--n_ctx", str(CONTEXT_LENGTH)),
                # Else each request breaks off the one before it.
                *("--n_threads", "1", "--interrupt_requests", "false"),
            ],
            {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ},
            folder / "upstream.log",
        )

    @property
    def settings(self) -> dict[str, str]:
        """Those of workers that it generates for."""
        return {
            "MODEL_BACKEND": "openai",
            "MODEL_NAME": NAME,
            "OPENAI_BASE_URL": self.url,
            # It answers one request at a time, and each fault has some of them asked again.
            "UPSTREAM_RETRY_S": "600",
            "ENGINE_STALL_S": "600",
        }

    def write_model(self) -> None:
        """Write what it serves."""
        write_letter_model(self._model)
        subprocess.run([PYTHON, WRITER, self._model, self._gguf], check=True, timeout=60)

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            TimeoutError: That took too long; its log says why.
        """
        self.process.start()
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient(trust_env=False) as http:
            while True:
                with suppress(httpx.TransportError):
                    await http.get(f"{self.url}/models")
                    return
                await asyncio.sleep(POLL_S)
