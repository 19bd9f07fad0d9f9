"""The fault suite in short: a fixed seed, a fixed list of faults, everything compared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.llama_server import IS_THERE

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 170

needs_llama = pytest.mark.skipif(
    not IS_THERE, reason="no llama-cpp-python: `make llama-cpp` builds it"
)


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("behind", [(), pytest.param(("--upstream", "llama"), marks=needs_llama)])
def test_nothing_is_lost_doubled_or_changed_by_one_fault_of_each_kind(
    tmp_path: Path, behind: tuple[str, ...]
) -> None:
    folder = tmp_path / "report"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.run", "--short", *behind, "--folder", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # It ends what it has started, as at Ctrl-C.
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"it did not end in {TIMEOUT_S} s:\n{output}")
    assert process.returncode == 0, output
