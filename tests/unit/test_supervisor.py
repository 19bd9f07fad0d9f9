"""The supervisor: its rules in a simulated world, its effects on real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from common.supervisor import Child, Supervisor, Wait, collect_signals, module_environment

FOR_EVER = float("inf")
PATIENCE_S = 60


@dataclass
class FakeProcess:
    """Ends by itself at `ends_at`, or when it is asked to, unless it is deaf."""

    world: World
    name: str
    ends_at: float = FOR_EVER
    status: int = 1
    deaf: bool = False
    ended: int | None = None
    pid: int = 1

    def poll(self) -> int | None:
        if self.ended is None and self.world.now >= self.ends_at:
            self.ended = self.status
        return self.ended

    def stop(self, signum: signal.Signals) -> None:
        self.world.events.append(f"{signum.name} {self.name}")
        if not self.deaf:
            self.ended = -signum

    def kill(self) -> None:
        if self.poll() is None:
            self.world.events.append(f"SIGKILL {self.name}")
            self.ended = -signal.SIGKILL


@dataclass
class World:
    """A clock, the signals to come, and what became of the children."""

    now: float = 1000.0
    events: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    starts: dict[str, list[float]] = field(default_factory=dict)
    signals: list[tuple[float, int]] = field(default_factory=list)
    lives: dict[str, Iterator[Callable[[World, str], FakeProcess]]] = field(default_factory=dict)
    running: list[FakeProcess] = field(default_factory=list)

    @contextmanager
    def collect_signals(self) -> Iterator[Wait]:
        yield self.wait
        assert all(process.poll() is not None for process in self.running), "an orphan"

    def wait(self, timeout_s: float | None) -> list[int]:
        assert timeout_s is None or timeout_s >= 0
        wake = self.now + (FOR_EVER if timeout_s is None else timeout_s)
        deaths = [p.ends_at for p in self.running if p.ended is None]
        arrivals = [at for at, _ in self.signals]
        self.now = min([wake, *deaths, *arrivals])
        assert self.now < FOR_EVER, "would sleep for ever"
        due = [signum for at, signum in self.signals if at <= self.now]
        self.signals = [(at, signum) for at, signum in self.signals if at > self.now]
        return due

    def spawn(self, child: Child) -> FakeProcess:
        self.events.append(f"start {child.name}")
        self.starts.setdefault(child.name, []).append(self.now - 1000)
        make = next(self.lives.get(child.name, iter(())), lives_for_ever)
        process = make(self, child.name)
        process.pid = len(self.running) + 100
        self.running.append(process)
        return process

    def signal_at(self, at: float, signum: int = signal.SIGTERM) -> None:
        self.signals.append((1000 + at, signum))

    def run(
        self,
        *children: Child,
        stop_together: bool = False,
        when_ready: Callable[[], float | None] | None = None,
        when_stopping: Callable[[], None] | None = None,
        when_ended: Callable[[str, int], None] | None = None,
    ) -> int:
        return Supervisor(
            children,
            stop_together=stop_together,
            when_ready=when_ready,
            when_stopping=when_stopping,
            when_ended=when_ended,
            say=self.lines.append,
            spawn=self.spawn,
            signals=self.collect_signals,
            clock=lambda: self.now,
        ).run()


def lives_for_ever(world: World, name: str) -> FakeProcess:
    return FakeProcess(world, name)


def deaf(world: World, name: str) -> FakeProcess:
    return FakeProcess(world, name, deaf=True)


def lives(seconds: float, status: int = 1) -> Callable[[World, str], FakeProcess]:
    return lambda world, name: FakeProcess(world, name, world.now + seconds, status)


def cannot_start(_world: World, _name: str) -> FakeProcess:
    raise OSError(11, "Resource temporarily unavailable")


def child(name: str, ready: Callable[[], bool] | None = None, grace_s: float = 5) -> Child:
    return Child(name, ["unused"], ready=ready, grace_s=grace_s)


def test_a_dead_child_starts_again_after_delays_that_double_up_to_ten_seconds() -> None:
    world = World(lives={"a": iter([lives(0)] * 9)})
    world.signal_at(60)
    world.run(child("a"))
    starts = world.starts["a"]
    delays = [later - earlier for earlier, later in pairwise(starts)]
    assert delays == [0.25, 0.5, 1, 2, 4, 8, 10, 10, 10]


def test_whoever_asks_is_told_the_pid_of_each_child_that_has_ended() -> None:
    world = World(lives={"a": iter([lives(1)]), "b": iter([deaf])})
    world.signal_at(3)
    told: list[tuple[str, int]] = []
    world.run(child("a"), child("b"), when_ended=lambda name, pid: told.append((name, pid)))
    # a died and was started again; b did not stop and was killed; then a was stopped.
    assert told == [("a", 100), ("b", 101), ("a", 102)]


def test_a_child_that_lived_for_thirty_seconds_starts_again_after_the_first_delay() -> None:
    world = World(lives={"a": iter([lives(0), lives(0), lives(30)])})
    world.signal_at(60)
    world.run(child("a"))
    assert world.starts["a"] == [0, 0.25, 0.75, 31]


def test_a_restart_is_told_in_one_line_with_the_child_its_end_the_delay_and_where_to_look() -> None:
    world = World(lives={"a": iter([lives(1, status=7), lives(1, status=-9)])})
    world.signal_at(10)
    world.run(Child("a", ["unused"], hint="its log is a.log"))
    assert world.lines == [
        "a exited with status 7; starting it again in 0.25 s (its log is a.log)",
        "a was ended by SIGKILL; starting it again in 0.5 s (its log is a.log)",
    ]


def test_a_child_that_cannot_be_started_is_tried_again() -> None:
    world = World(lives={"a": iter([cannot_start, lives_for_ever])})
    world.signal_at(10)
    assert world.run(child("a")) == 0
    assert world.starts["a"] == [0, 0.25]
    assert "Resource temporarily unavailable" in world.lines[0]


def test_exit_status_2_stops_the_others_and_is_returned() -> None:
    world = World(lives={"b": iter([lives(1, status=2)])})
    assert world.run(child("a"), child("b"), child("c")) == 2
    assert world.events == ["start a", "start b", "start c", "SIGTERM c", "SIGTERM a"]


def test_a_child_starts_only_when_the_one_before_it_is_ready() -> None:
    world = World()
    world.signal_at(10)
    world.run(child("a", ready=lambda: world.now >= 1003), child("b"))
    assert world.starts["a"] == [0]
    assert world.starts["b"] == [pytest.approx(3, abs=0.11)]


def test_a_child_that_is_down_again_does_not_hold_up_those_that_start() -> None:
    world = World(lives={"a": iter([lives(1)])})
    world.signal_at(10)
    world.run(child("a"), child("b", ready=lambda: world.now >= 1001.1), child("c"))
    assert world.starts["c"][0] < world.starts["a"][1]


def test_children_stop_one_after_another_from_the_last_to_the_first() -> None:
    world = World()
    world.signal_at(1)
    assert world.run(child("a"), Child("b", [""], stop_signal=signal.SIGINT), child("c")) == 0
    assert world.events[3:] == ["SIGTERM c", "SIGINT b", "SIGTERM a"]


def test_a_signal_during_the_start_stops_what_has_started() -> None:
    world = World()
    world.signal_at(1)
    assert world.run(child("a", ready=lambda: False), child("b")) == 0
    assert world.events == ["start a", "SIGTERM a"]


def test_a_child_that_waits_for_its_restart_is_not_stopped() -> None:
    world = World(lives={"b": iter([lives(1)])})
    world.signal_at(1.1)
    assert world.run(child("a"), child("b")) == 0
    assert world.events == ["start a", "start b", "SIGTERM a"]


def test_a_child_that_does_not_stop_is_killed_when_its_grace_is_over() -> None:
    world = World(lives={"b": iter([deaf])})
    world.signal_at(1)
    assert world.run(child("a"), child("b", grace_s=5)) == 0
    assert world.events[2:] == ["SIGTERM b", "SIGKILL b", "SIGTERM a"]
    assert world.now == 1006


def test_children_that_stop_together_share_their_grace() -> None:
    world = World(lives={"a": iter([deaf]), "b": iter([deaf])})
    world.signal_at(1)
    assert world.run(child("a", grace_s=5), child("b", grace_s=5), stop_together=True) == 0
    assert world.events[2:] == ["SIGTERM b", "SIGTERM a", "SIGKILL b", "SIGKILL a"]
    assert world.now == 1006


def test_a_second_signal_kills_everything_at_once() -> None:
    world = World(lives={"b": iter([deaf])})
    world.signal_at(1)
    world.signal_at(3, signal.SIGINT)
    assert world.run(child("a"), child("b")) == 128 + signal.SIGINT
    assert world.events[2:] == ["SIGTERM b", "SIGKILL a", "SIGKILL b"]
    assert world.now == 1003


def test_one_wish_to_stop_that_arrives_as_two_signals_counts_once() -> None:
    # `kill -TERM` to make's process group: make forwards the signal that we got already.
    world = World(lives={"a": iter([deaf])})
    world.signal_at(1)
    world.signal_at(1.01)
    assert world.run(child("a", grace_s=5)) == 0
    assert world.now == 1006


def test_the_call_for_readiness_comes_once_all_are_ready_and_again_as_it_asks() -> None:
    world = World()
    world.signal_at(20)
    calls: list[float] = []

    def when_ready() -> float | None:
        calls.append(world.now - 1000)
        return 2.5 if len(calls) < 3 else None

    world.run(child("a"), child("b", ready=lambda: world.now >= 1002), when_ready=when_ready)
    assert calls == [pytest.approx(first, abs=0.11) for first in (2, 4.5, 7)]


def test_the_call_for_stopping_comes_before_any_child_is_stopped() -> None:
    world = World()
    world.signal_at(1)
    world.run(child("a"), when_stopping=lambda: world.events.append("stopping"))
    assert world.events == ["start a", "stopping", "SIGTERM a"]


def test_an_error_inside_the_supervisor_leaves_no_child_behind() -> None:
    world = World()

    def fails() -> bool:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        world.run(child("a", ready=fails))
    assert world.events == ["start a", "SIGKILL a"]


# Real processes. Every process inherits one pipe as its standard output: a line in it is an event
# to wait for, and its end proves that the last process is gone.

PROGRAM = """
import os, sys
from common.supervisor import Child, Supervisor
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
