"""What to warn an operator about: a Redis that may lose accepted jobs.

Read from INFO alone, which managed servers answer where they refuse CONFIG. It is advice: a server
that refuses INFO too is taken as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common.connection import AsyncRedis, RefusedError, SyncRedis, translated_errors
from common.errors import RedisUnavailableError

NO_APPEND_ONLY_FILE = (
    "Redis has no append-only file: when it crashes, accepted jobs are lost. Set appendonly yes"
)
WRITE_FAILED = (
    "Redis failed to write to its append-only file, as when its disk is full: if it ends before it "
    "can, the last jobs that it accepted are lost. Its own log says why"
)
EVICTS = (
    "Redis drops keys when its memory is full (maxmemory-policy {policy}): these may be accepted "
    "jobs, or results. Set maxmemory-policy noeviction"
)
_SECTIONS = ("server", "persistence", "memory")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Durability:
    """How one server keeps its data.

    Attributes:
        run_id: Names this run of the server: a restart has another one, and so has a failover.
        risks: A sentence for each way in which it may lose jobs.
    """

    run_id: str
    risks: tuple[str, ...]


class DurabilityCheck:
    """Logs each risk once, and again where it comes back or the server is another one."""

    def __init__(self) -> None:
        self._told = Durability("", ())

    def check(self, client: SyncRedis) -> None:
        """Look once; a Redis that is away or refuses INFO is passed over."""
        pipe = client.pipeline(transaction=False)
        for section in _SECTIONS:
            pipe.info(section)
        with _as_advice():
            self._tell(_durability(pipe.execute()))

    async def acheck(self, client: AsyncRedis) -> None:
        """Look once, from an event loop; a Redis that is away or refuses INFO is passed over."""
        pipe = client.pipeline(transaction=False)
        for section in _SECTIONS:
            pipe.info(section)
        with _as_advice():
            self._tell(_durability(await pipe.execute()))

    def _tell(self, found: Durability) -> None:
        known = self._told.risks if self._told.run_id == found.run_id else ()
        for risk in found.risks:
            if risk not in known:
                log.warning(risk)
        self._told = found


@contextmanager
def _as_advice() -> Iterator[None]:
    try:
        with translated_errors():
            yield
    except (RedisUnavailableError, RefusedError) as error:
        log.debug("How Redis keeps its data is not known: %s", error)


def _durability(answers: Sequence[dict[str, Any]]) -> Durability:
    info = {name: value for answer in answers for name, value in answer.items()}
    risks = []
    # A field that is not there says nothing: not every server that speaks Redis has them all.
    if info.get("aof_enabled") == 0:
        risks.append(NO_APPEND_ONLY_FILE)
    if info.get("aof_last_write_status", "ok") != "ok":
        risks.append(WRITE_FAILED)
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        risks.append(EVICTS.format(policy=policy))
    return Durability(str(info.get("run_id")), tuple(risks))
