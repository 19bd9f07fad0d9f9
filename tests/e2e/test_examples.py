"""Every example of `001_236851b6479a707f.txt` works as it stands, on the bundled model."""

from __future__ import annotations

import http.server
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import ROOT, Service

EXAMPLES = Path(__file__).parent / "examples"
TIMEOUT_S = 120
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


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


class Page(http.server.BaseHTTPRequestHandler):
    """Serves one page, and takes what the page reports."""

    html = ""
    reports: queue.Queue[str]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.html.encode())

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.reports.put(self.rfile.read(length).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[http.server.ThreadingHTTPServer]:
    Page.reports = queue.Queue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browsers_event_source_gets_the_result(
    service: Service, page: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    task_id = service.submit("Tell me a story", max_tokens=60, seed=3)
    script = example("event_source.js", service).replace("abc123-def456-ghi789", task_id)
    Page.html = f"""<script>
      const lines = [];
      console.log = (...words) => {{
        lines.push(words.join(' '));
        if (words[0] === 'Result:') fetch('/', {{method: 'POST', body: lines.join('\\n')}});
      }};
      {script}
    </script>"""
    assert CHROMIUM is not None
    browser = subprocess.Popen(
        [
            *(CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path}/profile"),
            *("--remote-debugging-port=0", f"http://localhost:{page.server_port}/"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        report = Page.reports.get(timeout=TIMEOUT_S)
    finally:
        browser.terminate()
        browser.wait()
    assert f"Result: {service.result(task_id)['result']}" in report
