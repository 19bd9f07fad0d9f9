"""Runs programs of others' clients, which live in an environment of their own.

`make clients` makes it; CLIENTS_DIR names another one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import KEY, ROOT, Service

SCRIPTS = Path(__file__).parent / "clients"
CLIENTS = Path(os.environ.get("CLIENTS_DIR", ROOT / ".clients"))
TIMEOUT_S = 150

needs_python = pytest.mark.skipif(
    not (CLIENTS / "python" / ".made").exists(),
    reason=f"no clients in {CLIENTS / 'python'}: `make clients` installs them",
)
needs_node = pytest.mark.skipif(
    not (CLIENTS / "node" / ".made").exists() or not shutil.which("node"),
    reason=f"no node, or no clients in {CLIENTS / 'node'}: `make clients` installs them",
)


class Clients:
    """Runs programs beside the clients, as processes that reach nothing but the service."""

    def __init__(self, service: Service, folder: Path, **environment: str) -> None:
        self.service = service
        self.folder = folder
        self._environment = {
            "PATH": os.pathsep.join([str(CLIENTS / "python" / "bin"), os.environ["PATH"]]),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "OPENAI_BASE_URL": f"{service.url}/v1",
            "OPENAI_API_KEY": KEY,
            "KEY": KEY,
            "NO_PROXY": "localhost,127.0.0.1",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing listens there
            "HF_HUB_OFFLINE": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "DO_NOT_TRACK": "1",
        } | environment

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """The output of a command that must succeed."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_python(self, script: str) -> str:
        """The output of a Python program."""
        return self.run("python", "-c", script)

    def run_node(self, script: str) -> str:
        """The output of a program for Node."""
        for name in ("package.json", "node_modules"):
            (self.folder / name).symlink_to(CLIENTS / "node" / name)
        (self.folder / "script.js").write_text(script)
        return self.run("node", "script.js")


def last_line(output: str) -> Any:
    """What a script found; some clients print remarks of their own before it."""
    return json.loads(output.splitlines()[-1])
