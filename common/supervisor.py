"""Start child processes in order, keep them alive, and stop them in reverse order.

A generic supervisor: it knows nothing about Redis, Celery, HTTP or settings. It runs in the main
thread of a process that has no other thread, and sleeps until a signal or a deadline comes.

- A child that ends is started again, after 0.25 s at first, doubling to 10 s; a child that lived
  for 30 s begins at 0.25 s again.
- A child that exits with status 2 was started wrongly (a bad setting, bad usage): a restart cannot
  help, so everything stops and the supervisor returns 2.
- SIGINT, SIGTERM or SIGHUP stops the children, each with its own signal and grace; the same again
  after a second kills them at once.
- Whichever way the supervisor ends, kill -9 included, no child outlives it (on Linux). What a
  child started for itself in its process group is killed when the child ends, but for kill -9 of
  the supervisor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from common.child_process import Child, ChildProcess, Process

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 10.0
SETTLED_S = 30.0
READY_POLL_S = 0.1
# A terminal, make or a service manager may deliver one wish to stop as two signals.
SAME_STOP_S = 1.0
WRONG_USAGE = 2

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = logging.getLogger(__name__)


# Sleeps until signals come or the time in seconds is over (None: for ever); returns the signals.
Wait = Callable[[float | None], list[int]]


class Supervisor:
    """Runs children until a signal stops it, or one of them says that it was started wrongly."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        stop_together: bool = False,
        when_ready: Callable[[], float | None] | None = None,
        when_stopping: Callable[[], None] | None = None,
        when_ended: Callable[[str, int], None] | None = None,
        say: Callable[[str], None] = _log.warning,
        spawn: Callable[[Child], Process] | None = None,
        signals: Callable[[], AbstractContextManager[Wait]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the children in the order in which they start.

        Args:
            children: Each starts when those before it are ready.
            stop_together: Stop all at the same time, instead of one after another from the last.
            when_ready: Called once all are ready, and again after as many seconds as it returned.
            when_stopping: Called once when a signal has come, before any child is stopped.
            when_ended: Called with the name and the pid of a child that has ended in any way,
                before it is started again. It must not take long.
            say: Takes one line for whoever watches.
            spawn: Starts a child; a seam for tests.
            signals: Collects signals; a seam for tests.
            clock: Seconds that never go back; a seam for tests.
        """
        self._slots = [_Slot(child, when_ended) for child in children]
        self._stop_together = stop_together
        self._when_ready = when_ready
        self._when_stopping = when_stopping
        self._say = say
        self._spawn = spawn or ChildProcess
        self._signals = signals or collect_signals
        self._clock = clock
        self._wait: Wait
        self._begun: list[_Slot] = []
        self._call_at: float | None = None

    def run(self) -> int:
        """Start everything, and return when everything has ended.

        Returns:
            0 after one signal; 2 when a child exited with 2; 128 + the signal's number when a
            second one cut the orderly stop short.

        Raises:
            ValueError: The caller is not the main thread.
        """
        with self._signals() as self._wait:
            try:
                status = self._watch()
                return self._stop_all() or status
            finally:
                # Reached with a living child only if something above raised.
                for slot in self._slots:
                    slot.kill()

    def _watch(self) -> int:
        while True:
            for slot in self._slots:
                if self._died(slot) == WRONG_USAGE:
                    self._say(f"{slot.child.name} cannot run like this; stopping")
                    return WRONG_USAGE
            self._start_due()
            self._call_when_ready()
            if any(signum in STOP_SIGNALS for signum in self._wait(self._pause_s())):
                if self._when_stopping is not None:
                    self._when_stopping()
                return 0

    def _died(self, slot: _Slot) -> int | None:
        """Note that a child has ended, and when it is to start again."""
        status = slot.collect()
        if status is not None and status != WRONG_USAGE:
            self._start_later(slot, _describe(status))
        return status

    def _start_later(self, slot: _Slot, what_happened: str) -> None:
        now = self._clock()
        delay_s = slot.backoff.next_delay_s(lived_s=now - slot.started_at)
        slot.start_at = now + delay_s
        hint = f" ({slot.child.hint})" if slot.child.hint else ""
        self._say(f"{slot.child.name} {what_happened}; starting it again in {delay_s:g} s{hint}")

    def _start_due(self) -> None:
        for slot in self._begun:
            if slot.start_at is not None and self._clock() >= slot.start_at:
                self._start(slot)
        while all(slot.check_ready() for slot in self._begun) and self._begun != self._slots:
            self._begun.append(self._slots[len(self._begun)])
            self._start(self._begun[-1])

    def _start(self, slot: _Slot) -> None:
        slot.started_at = self._clock()
        slot.start_at = None
        try:
            slot.process = self._spawn(slot.child)
        except OSError as error:
            # Out of processes or memory, or the program is being replaced: these pass.
            self._start_later(slot, f"cannot be started: {error}")

    def _call_when_ready(self) -> None:
        if self._when_ready is None or not all(slot.was_ready for slot in self._slots):
            return
        if self._call_at is None or self._clock() >= self._call_at:
            pause_s = self._when_ready()
            self._call_at = self._clock() + (pause_s or 0)
            if pause_s is None:
                self._when_ready = None

    def _pause_s(self) -> float | None:
        """How long nothing is to be done unless a signal comes; None: for ever."""
        now = self._clock()
        pauses = [slot.start_at - now for slot in self._slots if slot.start_at is not None]
        if any(slot.process is not None and not slot.was_ready for slot in self._slots):
            pauses.append(READY_POLL_S)
        if self._when_ready is not None and self._call_at is not None:
            pauses.append(self._call_at - now)
        return max(0.0, min(pauses)) if pauses else None

    def _stop_all(self) -> int:
        """End every child; the status is not 0 if it had to be cut short."""
        slots = [slot for slot in reversed(self._slots) if slot.process is not None]
        steps = [slots] if self._stop_together else [[slot] for slot in slots]
        asked_at = self._clock()
        for step in steps:
            signum = self._stop(step, asked_at)
            if signum is not None:
                self._say("killing everything at once")
                return 128 + signum
        return 0

    def _stop(self, slots: list[_Slot], asked_at: float) -> int | None:
        """End some children together; a repeated signal is returned as soon as it comes."""
        now = self._clock()
        for slot in slots:
            slot.kill_at = now + slot.child.grace_s
            if slot.process is not None:
                slot.process.stop(slot.child.stop_signal)
        while waiting := [slot for slot in slots if slot.collect() is None and slot.process]:
            now = self._clock()
            for slot in waiting:
                if now >= slot.kill_at:
                    self._say(f"{slot.child.name} did not stop in {slot.child.grace_s:g} s; killed")
                    slot.kill()
            pause_s = min(slot.kill_at for slot in waiting) - now
            for signum in self._wait(max(0.0, pause_s)):
                if signum in STOP_SIGNALS and self._clock() - asked_at >= SAME_STOP_S:
                    return signum
        return None


@dataclass
class Backoff:
    """How long to wait before a child starts again."""

    _delay_s: float = 0.0

    def next_delay_s(self, lived_s: float) -> float:
        """The delay after one more end.

        Args:
            lived_s: Seconds from the start to this end.
        """
        fresh = self._delay_s == 0 or lived_s >= SETTLED_S
        self._delay_s = FIRST_DELAY_S if fresh else min(self._delay_s * 2, LONGEST_DELAY_S)
        return self._delay_s


@dataclass
class _Slot:
    """One child and where it is in its life."""

    child: Child
    when_ended: Callable[[str, int], None] | None = None
    process: Process | None = None
    started_at: float = 0.0
    start_at: float | None = None
    kill_at: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    was_ready: bool = False

    def check_ready(self) -> bool:
        """Whether the child was ready once; a later restart does not make it unready."""
        if self.process is not None and not self.was_ready:
            self.was_ready = self.child.ready is None or self.child.ready()
        return self.was_ready

    def collect(self) -> int | None:
        """Take the exit status of a child that has ended, once."""
        status = self.process.poll() if self.process is not None else None
        if status is not None:
            self.kill()
        return status

    def kill(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()
            if self.when_ended is not None:
                self.when_ended(self.child.name, process.pid)


@contextlib.contextmanager
def collect_signals() -> Iterator[Wait]:
    """Collect signals in a pipe while the context lasts, so that one wait is for them and for time.

    A signal that arrives between two waits stays in the pipe: none is missed. Only the main thread
    may enter.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old_handlers = {
        signum: signal.signal(signum, _note)
        for signum in (*STOP_SIGNALS, signal.SIGCHLD)
        # Under nohup SIGHUP is ignored, and has to stay so.
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN
    }

    def wait(timeout_s: float | None) -> list[int]:
        select.select([reader], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            return list(os.read(reader, 4096))
        return []

    try:
        yield wait
    finally:
        for signum, handler in old_handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(old_writer)
        os.close(reader)
        os.close(writer)


def _describe(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _note(_signum: int, _frame: object) -> None:
    """A handler has to exist for the signal's number to be written into the pipe."""
