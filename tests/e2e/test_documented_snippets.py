"""The snippets of docs/api.md work as they stand, pasted from the top of the page to its end.

Those for clients of others are run by `test_clients.py`, where these are installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import ROOT, Service

PAGE = (ROOT / "docs" / "api.md").read_text()
MODELS = [
    {"id": "baton-toy", "source": "baton-toy"},
    {"id": "my-embedder", "source": "baton-toy", "kind": "embed"},
]
OF_OTHERS = ("litellm", "langchain", "lm_eval")
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One with the models that the page speaks of."""
    service = Service(
        tmp_path_factory.mktemp("documented"), MODELS=json.dumps(MODELS), KV_CACHE_GIB=0.2
    )
    service.start()
    try:
        service.wait_for("Model my-embedder is ready on")
        yield service
    finally:
        service.stop()


def snippets(language: str, service: Service) -> list[str]:
    """Those of the page in one language, in their order."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    own = [text for text in found if not any(name in text for name in OF_OTHERS)]
    return [text.replace("localhost:8000", f"127.0.0.1:{service.port}") for text in own]


def run(*command: str, folder: Path) -> str:
    """The output of a command that must succeed."""
    environment = os.environ | {"CURL_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_the_shell_snippets_can_be_pasted_one_after_the_other(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / ".curlrc").write_text("fail-with-body\nshow-error\n")
    scripts = snippets("sh", service)
    assert len(scripts) >= 8
    output = run("bash", "-euo", "pipefail", "-c", "\necho\n".join(scripts), folder=tmp_path)
    assert '"object":"batch"' in output
    assert '"object":"embedding"' in output


def test_the_python_snippets_can_be_pasted_one_after_the_other(
    service: Service, tmp_path: Path
) -> None:
    programs = snippets("python", service)
    assert len(programs) >= 3
    output = run(sys.executable, "-c", "\n".join(programs), folder=tmp_path)
    assert "completed " in output
    assert "Usage(prompt_tokens=" in output
