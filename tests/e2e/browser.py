"""A real browser, headless, that shows one page of ours and reports back."""

from __future__ import annotations

import http.server
import itertools
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TIMEOUT_S = 120

# Does what a page does that shows a stream: puts the tokens together, replaces what a snapshot
# replaces, and leaves reconnecting to EventSource.
_WATCHER = """<script>
  const send = (report) => fetch('/', {method: 'POST', body: JSON.stringify(report)});
  const arrivals = [];
  let text = '';
  const source = new EventSource('STREAM_URL');
  source.onmessage = (event) => {
    const data = JSON.parse(event.data);
    text = (data.snapshot ? '' : text) + (data.token || '');
    if (data.token) {
      arrivals.push(performance.now());
      if (arrivals.length === 5) send({kind: 'running'});
    }
    if (['completed', 'failed', 'cancelled', 'expired'].includes(data.status)) {
      source.close();
      send({kind: 'ended', status: data.status, text, result: data.result, arrivals});
    }
  };
</script>"""


@dataclass(frozen=True)
class Watched:
    """What a page had shown when its stream ended.

    Attributes:
        text: All tokens put together.
        result: The text that the last event said is the whole.
        gaps_ms: Milliseconds between any two arrivals of tokens, in order.
    """

    status: str
    text: str
    result: str
    gaps_ms: tuple[float, ...]


class Page:
    """One page, served on a port of its own, and what it reports."""

    def __init__(self, html: str) -> None:
        self.reports: queue.Queue[str] = queue.Queue()
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(html.encode())

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                page.reports.put(self.rfile.read(length).decode())
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def next_report(self) -> str:
        """The body of the next POST of the page."""
        return self.reports.get(timeout=TIMEOUT_S)


@contextmanager
def open_page(html: str, folder: Path) -> Iterator[Page]:
    """Show a page in the browser while the context lasts.

    Args:
        folder: Where the browser's profile goes.
    """
    assert CHROMIUM is not None, "no chromium on PATH"
    page = Page(html)
    threading.Thread(target=page.server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        [
            *(CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={folder}/profile"),
            *("--remote-debugging-port=0", f"http://localhost:{page.server.server_port}/"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield page
    finally:
        browser.terminate()
        browser.wait()
        page.server.shutdown()
        page.server.server_close()


class StreamPage:
    """A page that watches one stream."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def wait_until_running(self) -> None:
        """Wait for the first few tokens."""
        report = self._next()
        assert report["kind"] == "running", report

    def wait_for_end(self) -> Watched:
        """Wait for the last event."""
        report = self._next()
        assert report["kind"] == "ended", report
        arrivals = report["arrivals"]
        gaps = tuple(b - a for a, b in itertools.pairwise(arrivals))
        return Watched(report["status"], report["text"], report["result"], gaps)

    def _next(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self._page.next_report())
        return report


@contextmanager
def watch_stream(stream_url: str, folder: Path) -> Iterator[StreamPage]:
    """Watch a stream in the browser while the context lasts."""
    with open_page(_WATCHER.replace("STREAM_URL", stream_url), folder) as page:
        yield StreamPage(page)
