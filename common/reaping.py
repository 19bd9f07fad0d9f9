"""Taking jobs back from workers that are gone: by their leases, or at once where a death is known.

Any number of processes may do it, on any host: workers and launchers (`Reaping`), and gateways
(`AsyncReaping`). Knows nothing about HTTP, Celery or models.

Raises:
    RedisUnavailableError: Redis is away. Repeat the call: what has been taken back stays so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.connection import AsyncRedis, Script, SyncRedis, translated_errors
from common.errors import WorkerLostError
from common.settings import Settings

PERIOD_S = 2.0
"""Seconds between two reaps, at most."""
PERIODS_PER_LEASE = 6
"""A lease is renewed every third of its length: three periods without a reap, which are the sign of
an outage, are over before any lease has passed."""
LIMIT = 256
"""Jobs that one call takes back at most, so that no call holds Redis up."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """Jobs of workers that are gone: those that are in line again, and those that have ended."""

    requeued: tuple[str, ...]
    ended: tuple[str, ...]


class _Rules:
    """The scripts and what they are told."""

    reap = Script("reap")
    hand_back = Script("hand_back")

    def __init__(self, settings: Settings) -> None:
        self.period_s = min(PERIOD_S, settings.lease_s / PERIODS_PER_LEASE)
        message = f"The job's workers died {settings.max_attempts} times while they ran it."
        ends = (settings.result_ttl_s, settings.stream_grace_s, WorkerLostError.__name__, message)
        period_ms, lease_ms = int(self.period_s * 1000), int(settings.lease_s * 1000)
        self.reap_args = (period_ms, lease_ms, LIMIT, settings.max_attempts, *ends)
        self.hand_back_args = (settings.max_attempts, *ends)


class Reaping:
    """For threads.

    Attributes:
        period_s: `reap` is to be called this often.
    """

    def __init__(self, client: SyncRedis, settings: Settings) -> None:
        self._client = client
        self._rules = _Rules(settings)
        self.period_s = self._rules.period_s

    def reap(self) -> Reaped:
        """Take back jobs whose lease has passed, from every worker, and top up the permits.

        Where no reaper of the whole fleet could call for three periods, Redis was away, and no
        heartbeat could come through either: then all leases are extended once instead.
        """
        with translated_errors():
            return _read(self._rules.reap.call(self._client, *self._rules.reap_args))

    def hand_back(self, worker_id: str) -> Reaped:
        """Take back the jobs of a worker that is known to be dead, without waiting for leases."""
        requeued: list[str] = []
        ended: list[str] = []
        is_more = 1
        while is_more:
            with translated_errors():
                *ids, is_more = self._rules.hand_back.call(
                    self._client, worker_id, *self._rules.hand_back_args
                )
            requeued += ids[0]
            ended += ids[1]
        return Reaped(tuple(requeued), tuple(ended))


class AsyncReaping:
    """For an event loop.

    Attributes:
        period_s: `reap` is to be called this often.
    """

    def __init__(self, client: AsyncRedis, settings: Settings) -> None:
        self._client = client
        self._rules = _Rules(settings)
        self.period_s = self._rules.period_s

    async def reap(self) -> Reaped:
        """As `Reaping.reap`."""
        with translated_errors():
            return _read(await self._rules.reap.acall(self._client, *self._rules.reap_args))


def _read(answer: list[Any]) -> Reaped:
    requeued, ended = answer
    return Reaped(tuple(requeued), tuple(ended))
