"""The real process tree when its worker's engine breaks: the job goes on in the next worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service

StartService = Callable[..., Service]
STORY: dict[str, Any] = {"max_tokens": 200, "seed": 11, "ignore_eos": True, "raw": True}


@pytest.mark.parametrize(
    ("how", "logged"),
    [
        ("raise", "The thread engine died"),
        ("lose the device", "The thread engine died"),
        ("hang", "The engine is hung"),
    ],
)
def test_a_job_goes_on_where_it_was_when_its_engine_breaks(
    start_service: StartService, tmp_path: Path, how: str, logged: str
) -> None:
    fault = tmp_path / "fault"
    service = start_service(
        FAULT_FILE=fault,
        PYTHONPATH=Path(__file__).parent / "engine_faults",
        ENGINE_STALL_S=1,
        LEASE_S=6,  # a beat every two seconds, which is when a hung step is noticed
    )
    service.wait_until_ready()
    expected = service.result(service.submit(**STORY))
    task_id = service.submit(**STORY)
    text = ""
    for number, (_, data) in enumerate(service.events(task_id)):
        text += data.get("token") or ""
        if number == 4:
            fault.write_text(how)
    assert data["status"] == "completed"
    assert text == expected["result"]
    assert data["metrics"]["attempts"] == 2
    assert logged in (service.log_dir / "errors.log").read_text()
