"""Look at everything in Redis, then once more at what seemed wrong.

Memory stays bounded whatever is stored: keys and entries are scanned in pages, and findings are
kept up to `MOST_FINDINGS`. Nothing is changed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from common import keys
from common.connection import SyncRedis, connect, translated_errors
from common.fleet import WorkerInfo
from common.invariants import permit_supply
from common.invariants.findings import Finding, Look, Place, Violation
from common.invariants.jobs import look_at_jobs
from common.invariants.keyspace import (
    FAMILIES,
    SINGLES,
    family_of,
    look_at_counters,
    look_at_keys,
    look_at_leases,
    look_at_lines,
    look_at_streams,
    look_at_trials,
)
from common.model_catalog import ModelCatalog
from common.schemas import JOB_CLASSES
from common.settings import Settings
from common.stranded import stranded, why_stranded

PREFIX = "baton:"
PAGE = 100
"""Keys or entries that are looked at together: no transaction holds Redis up for long."""
MOST_FINDINGS = 1000
LOOKS = 4
LOOK_AGAIN_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    """What a check has found.

    Attributes:
        num_jobs: Records that were looked at; one that Redis names twice counts twice.
        num_keys: All keys that were looked at, records included.
        notes: What could not be checked, and what waits for a person; a sentence each.
    """

    violations: tuple[Violation, ...]
    num_jobs: int
    num_keys: int
    notes: tuple[str, ...] = ()


class Checker:
    """Checks the whole of one Redis.

    Args:
        client: To Redis.
        settings: Those of the service.
        quiescent: Nothing moves: also the counters have to agree, and the permits as they are.
        pause: Waits for so many seconds; a seam for tests.
    """

    def __init__(
        self,
        client: SyncRedis,
        settings: Settings,
        *,
        quiescent: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._settings = settings
        self._quiescent = quiescent
        self._pause = pause
        self._num_jobs = 0
        self._num_keys = 0

    def run(self) -> Report:
        """Check everything once.

        Raises:
            RedisUnavailableError: Redis is away.
        """
        self._num_jobs = self._num_keys = 0
        found = list(islice(self._first_look(), MOST_FINDINGS + 1))
        supplies = self._check_permits()
        notes = [
            f"{model}: permits are missing, and no reaper runs that could add them; start a worker "
            "or a gateway"
            for model in supplies.unwatched
        ]
        notes += self._stranded()
        if len(found) > MOST_FINDINGS:
            notes.append(f"the check was broken off after {MOST_FINDINGS} findings")
        violations = (*self._confirmed(found[:MOST_FINDINGS]), *supplies.violations)
        return Report(violations, self._num_jobs, self._num_keys, tuple(notes))

    def _first_look(self) -> Iterator[Finding]:
        for page in _pages(self._keys()):
            self._num_keys += len(page)
            yield from self._look(look_at_keys, [(key, "") for key in page])
            by_family: dict[str | None, list[str]] = defaultdict(list)
            for key in page:
                by_family[family_of(key)].append(key)
            jobs = by_family[keys.JOB]
            self._num_jobs += len(jobs)
            yield from self._look(look_at_jobs, [(key, "") for key in jobs])
            yield from self._look(look_at_streams, [(key, "") for key in by_family[keys.EVENTS]])
            for line in self._of_type(by_family[keys.READY]):
                yield from self._look_at_entries(look_at_lines, line)
            for single in self._of_type([key for key in page if key in SINGLES]):
                if single == keys.LEASES:
                    yield from self._look_at_entries(look_at_leases, single)
                elif single == keys.TRIALS:
                    yield from self._look_at_entries(look_at_trials, single)
        if self._quiescent:
            yield from self._look(look_at_counters, [(keys.COUNTERS, "")])

    def _look(self, look: Look, places: list[Place]) -> Iterator[Finding]:
        if places:
            yield from look(self._client, self._settings, places)

    def _look_at_entries(self, look: Look, key: str) -> Iterator[Finding]:
        for page in _pages(self._entries(key)):
            yield from self._look(look, [(key, entry) for entry in page])

    def _confirmed(self, found: list[Finding]) -> Iterator[Violation]:
        """What further looks show too: at the same state, or in every one."""
        for _ in range(LOOKS - 1):
            if not found:
                return
            self._pause(LOOK_AGAIN_S)
            again = {finding.identity: finding for finding in self._look_again(found)}
            still = []
            for finding in found:
                now = again.get(finding.identity)
                if now is not None and now.state == finding.state:
                    yield now.violation
                elif now is not None:
                    still.append(now)
            found = still
        yield from (finding.violation for finding in found)

    def _look_again(self, found: list[Finding]) -> Iterator[Finding]:
        places: dict[Look, dict[Place, None]] = defaultdict(dict)
        for finding in found:
            places[finding.look][finding.place] = None
        for look, wanted in places.items():
            for page in _pages(wanted):
                yield from self._look(look, page)

    def _check_permits(self) -> permit_supply.Supplies:
        if not self._of_type([keys.MODELS]):
            return permit_supply.Supplies()
        with translated_errors():
            models: Any = self._client.smembers(keys.MODELS)
        if self._quiescent:
            return permit_supply.check_now(self._client, sorted(models))
        return permit_supply.watch(self._client, sorted(models), self._pause)

    def _stranded(self) -> list[str]:
        """Of each model with waiting jobs that these settings do not name and no worker serves."""
        if not self._of_type([keys.MODELS]):
            return []
        workers = self._workers()
        if self._settings.finds_models and all(worker.found is None for worker in workers):
            return []  # nobody has looked which models there are
        configured = ModelCatalog(self._settings).models
        known = {*configured, *(model for worker in workers for model in worker.models)}
        with translated_errors():
            models: Any = self._client.smembers(keys.MODELS)
        queued = {model: self._num_waiting(model) for model in models if model not in known}
        waiting = stranded(queued, known).items()
        return [why_stranded(model, num_jobs, self._settings) for model, num_jobs in waiting]

    def _workers(self) -> list[WorkerInfo]:
        with translated_errors():
            ids: Any = self._entries(keys.WORKERS) if self._of_type([keys.WORKERS]) else ()
            places = self._of_type([keys.worker(worker_id) for worker_id in ids])
            packed = [self._client.get(place) for place in places]
        workers = []
        for each in packed:
            # One that cannot be read tells of no model.
            with suppress(ValueError, TypeError, AttributeError):
                workers.append(WorkerInfo.unpack(str(each)))
        return workers

    def _num_waiting(self, model: str) -> int:
        lines = self._of_type([keys.ready(model, job_class) for job_class in JOB_CLASSES])
        with translated_errors():
            lengths: list[Any] = [self._client.zcard(line) for line in lines]
        return sum(lengths)

    def _keys(self) -> Iterator[str]:
        yield from self._scan(lambda cursor: self._client.scan(cursor, f"{PREFIX}*", PAGE))

    def _entries(self, key: str) -> Iterator[str]:
        scan: Any = self._client.hscan if SINGLES.get(key) == "hash" else self._client.zscan
        for entry in self._scan(lambda cursor: scan(key, cursor, count=PAGE)):
            yield entry if isinstance(entry, str) else entry[0]

    def _scan(self, step: Callable[[int], Any]) -> Iterator[Any]:
        cursor, is_done = 0, False
        while not is_done:
            with translated_errors():
                cursor, page = step(cursor)
            yield from page
            is_done = cursor == 0

    def _of_type(self, candidates: list[str]) -> list[str]:
        """Those that are there and of their type; others are found by their own look."""
        with translated_errors():
            types = [self._client.type(key) for key in candidates]
        return [
            key
            for key, found in zip(candidates, types, strict=True)
            if found == (SINGLES.get(key) or FAMILIES.get(family_of(key) or ""))
        ]


def check_invariants(
    redis_url: str, quiescent: bool = True, settings: Settings | None = None
) -> list[Violation]:
    """Check everything in a Redis, as a test does when it is done.

    Args:
        redis_url: Where it is.
        quiescent: No job is being submitted, claimed or ended.
        settings: Of the service; None takes the process's.

    Raises:
        RedisUnavailableError: It is away.
    """
    with connect(redis_url) as client:
        report = Checker(client, settings or Settings(), quiescent=quiescent).run()
    return list(report.violations)


def _pages(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while page := list(islice(rest, PAGE)):
        yield page
