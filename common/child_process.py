"""A child process: what to run, and a running one that does not outlive its parent.

Knows nothing about when to start it or to start it again: see `common/supervisor.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import site
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Child:
    """What to run, and how to tell that it is ready and how to end it.

    Attributes:
        name: Names the child in messages.
        argv: Program and arguments.
        env: The whole environment; the supervisor's own where it is None.
        stop_signal: Asks the child to end.
        grace_s: Seconds from that signal to SIGKILL.
        ready: Whether the child can be used; the next one is started only then. It is asked
            every 0.1 s and must answer soon. None: ready once started.
        hint: Ends the message about an unexpected end; says where to look.
        pass_fds: File descriptors that the child inherits.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    ready: Callable[[], bool] | None = None
    hint: str = ""
    pass_fds: Sequence[int] = ()


class Process(Protocol):
    """A started child, as the supervisor sees it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""

    def stop(self, signum: signal.Signals) -> None:
        """Ask the process to end."""

    def kill(self) -> None:
        """End the process, and what it left in its process group, now."""


class ChildProcess:
    """A real child, the leader of its own session and process group.

    Its own session keeps Ctrl-C in the terminal away from it: only the supervisor hears it, and
    stops the children in order.
    """

    def __init__(self, child: Child) -> None:
        parent = os.getpid()
        self._popen = subprocess.Popen(
            child.argv,
            env=None if child.env is None else dict(child.env),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=tuple(child.pass_fds),
            # Safe here, because the supervisor's process has one thread only. That thread must
            # also be the one that lives longest: the death signal is sent when the *thread* that
            # forked ends, not the process.
            preexec_fn=lambda: _die_with(parent),
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def stop(self, signum: signal.Signals) -> None:
        """Ask the process, not its group, to end."""
        self._popen.send_signal(signum)

    def kill(self) -> None:
        """Kill the process and what it left in its group, and wait for its end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()


def module_environment(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which `python -m` finds our packages, and not the current directory's.

    Somebody else's `api/` or `common/` in the directory where the service is started must not be
    taken for ours.
    """
    ours = str(Path(__file__).resolve().parents[1])
    result = {**env, "PYTHONSAFEPATH": "1"}
    if ours not in site.getsitepackages():
        result["PYTHONPATH"] = os.pathsep.join(filter(None, [ours, env.get("PYTHONPATH")]))
    return result


def _die_with(parent: int) -> None:
    """Runs in the new child before exec: be killed when the supervisor ends in any way.

    Linux only; elsewhere a supervisor that is killed with -9 leaves its children behind.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before the call above.
        if os.getppid() != parent:
            os._exit(1)
