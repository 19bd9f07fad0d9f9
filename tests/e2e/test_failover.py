"""What a page in a browser shows when the worker that writes its text dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import CHROMIUM, watch_stream
from tests.e2e.service import Service

StartService = Callable[..., Service]
STORY: dict[str, Any] = {"max_tokens": 1200, "seed": 5, "ignore_eos": True, "raw": True}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_page_that_watches_a_job_goes_on_by_itself_when_the_worker_is_killed(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service()
    service.wait_until_ready()
    expected = service.result(service.submit(**STORY))["result"]
    stream_url = service.submit_to_watch(**STORY)
    with watch_stream(stream_url, tmp_path) as page:
        page.wait_until_running()
        [worker] = service.pids("worker.main")
        os.kill(worker, signal.SIGKILL)
        watched = page.wait_for_end()
    assert watched.status == "completed"
    assert watched.text == watched.result == expected
