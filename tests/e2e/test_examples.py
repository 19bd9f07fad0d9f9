"""Every example of `001_236851b6479a707f.txt` works as it stands, on the bundled model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.browser import CHROMIUM, open_page
from tests.e2e.service import ROOT, Service

EXAMPLES = Path(__file__).parent / "examples"
TIMEOUT_S = 120


def example(name: str, service: Service) -> str:
    return (EXAMPLES / name).read_text().replace("localhost:8000", f"localhost:{service.port}")


def run(*command: str, cwd: Path) -> str:
    """The output of a command that must succeed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "localhost,127.0.0.1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="no curl or jq")
def test_the_curl_flow_gets_a_result(service: Service, tmp_path: Path) -> None:
    output = run("bash", "-c", example("curl_flow.sh", service), cwd=tmp_path)
    result = json.loads(output[output.rindex('{"status"') :])
    assert result["status"] == "completed"
    assert result["result"]
    assert set(result["metrics"]) >= {
        *("queue_wait_time", "processing_time", "total_time"),
        *("prompt_tokens", "completion_tokens", "tokens_per_second"),
    }


def test_the_simple_python_script_gets_a_result(service: Service, tmp_path: Path) -> None:
    output = run(sys.executable, "-c", example("simple.py", service), cwd=tmp_path)
    assert "\nResult: " in output
    assert "\nMetrics: {" in output


def test_the_client_class_gets_a_result(service: Service, tmp_path: Path) -> None:
    assert run(sys.executable, "-c", example("client_class.py", service), cwd=tmp_path).strip()


def test_the_client_runs_as_a_demo(service: Service, tmp_path: Path) -> None:
    output = run(
        *(sys.executable, str(ROOT / "client_example.py"), "--base-url", service.url), cwd=tmp_path
    )
    assert output


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm")
def test_the_axios_script_gets_a_result(service: Service, tmp_path: Path) -> None:
    run("npm", "install", "--silent", "--no-audit", "--no-fund", "axios@1", cwd=tmp_path)
    (tmp_path / "example.js").write_text(example("node_axios.js", service))
    output = run("node", "example.js", cwd=tmp_path)
    assert "\nResult: " in output


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browsers_event_source_gets_the_result(service: Service, tmp_path: Path) -> None:
    task_id = service.submit("Tell me a story", max_tokens=60, seed=3)
    script = example("event_source.js", service).replace("abc123-def456-ghi789", task_id)
    html = f"""<script>
      const lines = [];
      console.log = (...words) => {{
        lines.push(words.join(' '));
        if (words[0] === 'Result:') fetch('/', {{method: 'POST', body: lines.join('\\n')}});
      }};
      {script}
    </script>"""
    with open_page(html, tmp_path) as page:
        report = page.next_report()
    assert f"Result: {service.result(task_id)['result']}" in report
