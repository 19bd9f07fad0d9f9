"""Free ports for servers under test, of which no two processes of a test run choose the same."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

# Below those that systems hand out for outgoing connections: a client that keeps trying to reach a
# port of the upper range while its server restarts can be given that very port as its own.
PORTS = range(20_000, 32_768)


def free_port() -> int:
    """A port that nobody listens on, and that was not returned before."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    return list(itertools.islice(filter(_is_free, _candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return True
    return False


def _shuffled(worker: str, num_workers: int) -> Iterator[int]:
    """The share of one process, `gw0`, `gw1`, ...; other runs on this machine draw from it too."""
    share = PORTS[int(worker.removeprefix("gw")) :: num_workers]
    return itertools.cycle(random.SystemRandom().sample(share, len(share)))


_candidates = _shuffled(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0"),
    int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
)
