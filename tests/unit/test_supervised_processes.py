"""What the supervisor does to real processes.

Every process inherits one pipe as its standard output: a line in it is an event to wait for, and
its end proves that the last process is gone.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.child_process import module_environment
from common.supervisor import collect_signals

PATIENCE_S = 60

PROGRAM = """
import os, sys
from common.child_process import Child
from common.supervisor import Supervisor
say = lambda line: os.write(1, f"says: {line}\\n".encode())
pairs = zip(sys.argv[1::2], sys.argv[2::2])
children = [Child(name, [sys.executable, "-c", code]) for name, code in pairs]
sys.exit(Supervisor(children, say=say).run())
"""
WAITS = """
import os, signal, sys
def say(*words):
    # One call: a print may come in pieces, with another process's between them.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def stop(signum, frame):
    say(NAME, "got", signal.Signals(signum).name)
    os._exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
say(NAME, "runs", os.getpid())
while True:
    signal.pause()
"""


def waits(name: str) -> str:
    return f"NAME = {name!r}\n{WAITS}"


class Real:
    """A supervisor in a process of its own, in a process group of its own."""

    def __init__(self, *names_and_codes: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *names_and_codes],
            stdout=subprocess.PIPE,
            env=module_environment(os.environ),
            process_group=0,
        )
        assert self.process.stdout is not None
        self._pipe = self.process.stdout
        self._text = b""

    def line(self) -> str:
        while b"\n" not in self._text:
            more = self._read()
            assert more, "the pipe ended early"
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def lines_to_the_end(self) -> list[str]:
        """What is still said until no process is left."""
        while more := self._read():
            self._text += more
        return self._text.decode().splitlines()

    def _read(self) -> bytes:
        assert select.select([self._pipe], [], [], PATIENCE_S)[0], "nothing came; somebody lives"
        return os.read(self._pipe.fileno(), 65536)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Real]]:
    started: list[Real] = []

    def make(*names_and_codes: str) -> Real:
        started.append(Real(*names_and_codes))
        return started[-1]

    yield make
    for real in started:
        real.close()


def pid_in(line: str) -> int:
    return int(line.split()[-1])


def test_a_killed_process_is_started_again(start: Callable[..., Real]) -> None:
    real = start("a", waits("a"))
    first = pid_in(real.line())
    os.kill(first, signal.SIGKILL)
    assert real.line() == "says: a was ended by SIGKILL; starting it again in 0.25 s"
    assert pid_in(real.line()) != first
    real.process.terminate()
    assert real.lines_to_the_end() == ["a got SIGTERM"]
    assert real.process.wait() == 0


def test_ctrl_c_reaches_the_supervisor_alone_which_stops_its_children_in_order(
    start: Callable[..., Real],
) -> None:
    real = start("a", waits("a"), "b", waits("b"))
    assert {real.line()[:6], real.line()[:6]} == {"a runs", "b runs"}
    # A terminal sends SIGINT to the whole foreground process group.
    os.killpg(real.process.pid, signal.SIGINT)
    assert real.lines_to_the_end() == ["b got SIGTERM", "a got SIGTERM"]
    assert real.process.wait() == 0


def test_a_real_exit_status_2_ends_all(start: Callable[..., Real]) -> None:
    real = start("a", waits("a"), "b", "import time, sys; sys.exit(2)")
    assert "says: b cannot run like this; stopping" in real.lines_to_the_end()
    assert real.process.wait() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent death signal")
def test_kill_9_of_the_supervisor_leaves_no_orphan_not_even_below_a_nested_supervisor(
    start: Callable[..., Real],
) -> None:
    nested = f"import sys\nsys.argv[1:] = ['c', {waits('c')!r}, 'd', {waits('d')!r}]\n{PROGRAM}"
    real = start("a", waits("a"), "b", nested)
    assert {real.line()[:6] for _ in range(3)} == {"a runs", "c runs", "d runs"}
    real.process.kill()
    assert real.lines_to_the_end() == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_dead_child_left_in_its_process_group_ends_with_it(
    start: Callable[..., Real],
) -> None:
    leaves = f"subprocess.Popen([sys.executable, '-c', {waits('left')!r}])"
    real = start("a", f"import subprocess, sys, time\n{leaves}\ntime.sleep(3600)")
    first = pid_in(real.line())
    parent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert real.line().startswith("says: a was ended by SIGKILL")
    assert pid_in(real.line()) != first
    real.process.terminate()
    # The end of the pipe: neither the first nor the second leftover holds it.
    assert real.lines_to_the_end() == []
    assert real.process.wait() == 0


def test_a_signal_between_two_waits_is_not_missed() -> None:
    with collect_signals() as wait:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait(0) == [signal.SIGTERM]
        assert wait(0) == []


def test_the_old_handlers_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with collect_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_current_directory_never_shadows_our_packages(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise SystemExit('a stranger')")
    for how in (["-c", "import common.supervisor"], ["-m", "common.supervisor"]):
        answer = subprocess.run(
            [sys.executable, *how],
            cwd=tmp_path,
            env=module_environment(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
