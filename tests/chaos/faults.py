"""Which faults come, and when: a pure function of the seed. How they are done: `injector`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.fleet import LEASE_S


class FaultKind(StrEnum):
    """What breaks."""

    KILL_WORKER = "kill -9 worker"
    KILL_LAUNCHER = "kill -9 launcher and worker"
    FREEZE_WORKER = "freeze worker"
    TERM_WORKER = "SIGTERM worker"
    KILL_GATEWAY = "kill -9 gateway"
    TERM_GATEWAY = "SIGTERM gateway"
    KILL_REDIS = "kill -9 Redis"
    TERM_REDIS = "SIGTERM Redis"
    STOP_REDIS = "SIGSTOP Redis"
    PAUSE_REDIS = "CLIENT PAUSE"
    REFUSE = "connections refused"
    BLACK_HOLE = "black hole"
    LONG_BLACK_HOLE = "black hole, longer than the lease"
    LOSE_REPLIES = "replies lost"
    KILL_UPSTREAM = "kill -9 upstream"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        pause_s: Seconds from the start of the fault before to the start of this one.
        target: Which of the processes it could hit, counted round.
        duration_s: Seconds until what broke is started again or mended.
    """

    kind: FaultKind
    pause_s: float
    target: int
    duration_s: float


MEAN_PAUSE_S = 2.5

# How often each kind comes in one round, and for how many seconds it lasts.
_ROUND: dict[FaultKind, tuple[int, float, float]] = {
    FaultKind.KILL_WORKER: (4, 0.0, 0.0),  # its launcher starts it again
    FaultKind.KILL_LAUNCHER: (2, 0.0, 2.0),
    FaultKind.FREEZE_WORKER: (1, LEASE_S + 1, LEASE_S + 4),
    FaultKind.TERM_WORKER: (2, 0.0, 1.0),
    FaultKind.KILL_GATEWAY: (3, 0.0, 1.0),
    FaultKind.TERM_GATEWAY: (1, 0.0, 1.0),
    FaultKind.KILL_REDIS: (2, 0.0, 2.0),
    FaultKind.TERM_REDIS: (1, 0.0, 2.0),
    FaultKind.STOP_REDIS: (1, 1.0, LEASE_S + 2),
    FaultKind.PAUSE_REDIS: (1, 1.0, LEASE_S + 2),
    FaultKind.REFUSE: (2, 0.2, LEASE_S),
    FaultKind.BLACK_HOLE: (2, 0.5, LEASE_S - 1),
    FaultKind.LONG_BLACK_HOLE: (2, LEASE_S + 1, 2 * LEASE_S + 2),
    FaultKind.LOSE_REPLIES: (2, 0.1, 1.0),
}


_UPSTREAM_ROUND = {FaultKind.KILL_UPSTREAM: (2, 0.0, 2.0)}
"""Beside the others, where workers have another server generate."""


def draw_faults(seed: int, *, has_upstream: bool = False) -> Iterator[Fault]:
    """Draw faults without end, in rounds: after each round every kind came as often as it should.

    Args:
        seed: Decides everything.
        has_upstream: There is a server behind the workers to be broken.
    """
    rng = random.Random(f"faults {seed}")
    each_round = _ROUND | (_UPSTREAM_ROUND if has_upstream else {})
    while True:
        kinds = [kind for kind, (count, _, _) in each_round.items() for _ in range(count)]
        rng.shuffle(kinds)
        for kind in kinds:
            _, shortest_s, longest_s = each_round[kind]
            yield Fault(
                kind=kind,
                # At least a little apart, else a whole round could come at one moment.
                pause_s=0.5 + rng.expovariate(1 / (MEAN_PAUSE_S - 0.5)),
                target=rng.randrange(60),
                duration_s=rng.uniform(shortest_s, longest_s),
            )


SHORT_LIST = (
    Fault(FaultKind.KILL_WORKER, pause_s=2.0, target=0, duration_s=0.0),
    Fault(FaultKind.KILL_GATEWAY, pause_s=1.5, target=0, duration_s=0.2),
    Fault(FaultKind.KILL_REDIS, pause_s=1.5, target=0, duration_s=0.5),
    Fault(FaultKind.REFUSE, pause_s=1.5, target=1, duration_s=1.0),
    Fault(FaultKind.LOSE_REPLIES, pause_s=1.0, target=4, duration_s=0.5),
    Fault(FaultKind.LOSE_REPLIES, pause_s=0.5, target=0, duration_s=0.5),
    Fault(FaultKind.TERM_WORKER, pause_s=1.0, target=2, duration_s=0.0),
    Fault(FaultKind.LONG_BLACK_HOLE, pause_s=0.5, target=1, duration_s=LEASE_S + 1),
)
"""At least one of each group: for the short run."""
UPSTREAM_LIST = (
    *SHORT_LIST[:2],
    Fault(FaultKind.KILL_UPSTREAM, pause_s=1.5, target=0, duration_s=0.5),
    *SHORT_LIST[2:],
)
"""The same with the death of the server behind the workers."""
