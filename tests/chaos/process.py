"""One process of the fleet: started, signalled, waited for, and started again. By its pid alone."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_S = 0.02
STOP_GRACE_S = 30.0

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServiceProcess:
    """A program that can be started any number of times.

    Args:
        name: Names it in the report and its log file.
        argv: Program and arguments.
        env: The whole environment.
        log: Where its output goes; each start adds to it.
    """

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._argv = list(argv)
        self._env = dict(env)
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; None where it does not run."""
        if self._popen is None or self._popen.poll() is not None:
            return None
        return self._popen.pid

    def start(self) -> None:
        """Start it; returns at once."""
        assert self.pid is None, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def send(self, signum: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._popen is not None and self.pid is not None:
            self._popen.send_signal(signum)

    async def ended(self) -> None:
        """Wait for its end."""
        await until(lambda: self.pid is None)

    async def kill(self) -> None:
        """End it as a crash does."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> bool:
        """Ask it to end, and kill it where it does not; whether it ended by itself."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self.ended()
        except TimeoutError:
            await self.kill()
            return False
        return True

    def children(self) -> list[int]:
        """The pids of its children, on Linux."""
        pid = self.pid
        if pid is None:
            return []
        try:
            return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:  # it has just ended
            return []


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until a condition holds of processes that tell nobody when it does."""
    while not is_so():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(POLL_S)


def send_to(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def _die_with_parent() -> None:
    # Also where the suite itself is killed with -9 nothing of it stays behind.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
