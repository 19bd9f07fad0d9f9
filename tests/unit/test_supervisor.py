"""The supervisor's rules, in a simulated world."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from common.child_process import Child
from common.supervisor import Supervisor, Wait

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
