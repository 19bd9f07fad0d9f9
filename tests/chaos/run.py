"""`make chaos`: run jobs under faults, and compare each with the same job without.

The exit status is 0 where nothing was lost, doubled, changed or broken; 1 where something was; 2
where the run could not begin; 130 where it was stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from common.connection import connect_async
from common.invariants import check_invariants
from tests.chaos.clients import Clients, Followed, Progress
from tests.chaos.faults import SHORT_LIST, UPSTREAM_LIST, Fault, draw_faults
from tests.chaos.fleet import Fleet
from tests.chaos.groups import (
    JOBS_PER_GROUP,
    ChaosGroup,
    FollowedGroup,
    GroupClients,
    draw_groups,
)
from tests.chaos.injector import Injector
from tests.chaos.jobs import ChaosJob, draw_jobs, for_upstream
from tests.chaos.process import POLL_S
from tests.chaos.report import Report, Run, first_problems
from tests.chaos.store import read_jobs
from tests.chaos.upstream import Upstream
from tests.e2e.llama_server import IS_THERE

ROOT = Path(__file__).parents[2]
JOBS = 200
SHORT_SEED, SHORT_JOBS = 1, 24
# Jobs under way at a time. With faults: few enough that they last, and enough for every worker to
# hold some when it is hit.
AT_ONCE_WITHOUT_FAULTS, AT_ONCE, SHORT_AT_ONCE = 48, 20, 6
STALLED_S = 120.0
SETTLE_S = 30.0


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        at_once: Jobs under way at a time, with faults.
        faults: Drawn from the seed where it is None.
        has_upstream: llama.cpp's server generates for the workers.
    """

    seed: int
    num_jobs: int
    at_once: int
    folder: Path
    appendfsync: str = "always"
    faults: Sequence[Fault] | None = None
    has_upstream: bool = False


class NoReference(Exception):
    """The jobs did not all end without faults; there is nothing to compare with."""


async def run(options: Options) -> Report:
    """Run everything once.

    Raises:
        NoReference: The run without faults failed.
        TimeoutError: The service did not start.
    """
    jobs = draw_jobs(options.seed, options.num_jobs)
    upstream = Upstream(options.folder) if options.has_upstream else None
    if options.has_upstream:
        jobs = [for_upstream(job) for job in jobs]
    fleet = Fleet(options.folder, appendfsync=options.appendfsync, upstream=upstream)
    try:
        await fleet.start()
        _say("the service runs; now without faults")
        plain = [replace(job, watchers=(), cancel_after_s=None) for job in jobs]
        groups = draw_groups(options.seed, -(-options.num_jobs // JOBS_PER_GROUP))
        phase = Phase(fleet, "reference", AT_ONCE_WITHOUT_FAULTS)
        before, groups_before = await phase.run(plain, groups)
        failed = [each for each in before if each.outcome is None or each.outcome.error]
        if failed:
            raise NoReference(f"{len(failed)} jobs failed without faults, as {failed[0]}")
        if not all(each.has_ended for each in groups_before):
            raise NoReference("not every group ended without faults")
        _say("now with faults")
        return await _run_with_faults(options, fleet, jobs, before, groups_before)
    finally:
        await fleet.stop()


async def _run_with_faults(
    options: Options,
    fleet: Fleet,
    jobs: Sequence[ChaosJob],
    before: Sequence[Followed],
    groups_before: list[FollowedGroup],
) -> Report:
    phase = Phase(fleet, "faults", options.at_once)
    injector = Injector(fleet, phase.started_at)
    faults: Iterable[Fault] = options.faults or draw_faults(
        options.seed, has_upstream=options.has_upstream
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        injecting = group.create_task(injector.run(faults, stop))
        followed, groups = await phase.run(jobs, [each.group for each in groups_before])
        took_s = phase.now_s()
        if options.faults is None:
            stop.set()
        await injecting  # a fixed list is done to its end
    await _settle(fleet)
    violations = await asyncio.to_thread(check_invariants, fleet.redis_url, settings=fleet.settings)
    return Report(
        Run(
            seed=options.seed,
            reference={each.job.number: each.outcome for each in before if each.outcome},
            followed=followed,
            stored=await asyncio.to_thread(read_jobs, fleet.redis_url),
            accepted_ids=[
                *(each.task_id for each in (*before, *followed) if each.task_id),
                *(job_id for each in (*groups_before, *groups) for job_id in each.job_ids),
            ],
            injected=injector.done,
            violations=[str(each) for each in violations],
            surprises=[*fleet.surprises, *phase.surprises],
            took_s=took_s,
            groups_before=groups_before,
            groups=groups,
        )
    )


class Phase:
    """All jobs once, each with its clients; so many of them at a time."""

    def __init__(self, fleet: Fleet, name: str, at_once: int) -> None:
        self.started_at = time.monotonic()
        self.surprises: list[str] = []
        self._fleet = fleet
        self._name = name
        self._progress = Progress()
        self._room = asyncio.Semaphore(at_once)

    def now_s(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self.started_at

    async def run(
        self, jobs: Sequence[ChaosJob], groups: Sequence[ChaosGroup]
    ) -> tuple[list[Followed], list[FollowedGroup]]:
        """Run jobs and groups to their ends, or until nothing comes on for `STALLED_S`."""
        singles = [Followed(job) for job in jobs]
        together = [FollowedGroup(group) for group in groups]
        everyone: list[Followed | FollowedGroup] = [*singles]
        for number, each in enumerate(together):
            everyone.insert(number * (JOBS_PER_GROUP + 1), each)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx.AsyncClient(trust_env=False, timeout=20.0, limits=limits) as http:
            clients = Clients(self._fleet.urls, http, self._name, self._progress, self.now_s)
            client = connect_async(self._fleet.redis_url)
            of_groups = GroupClients(client, self._fleet.settings, self._name, self._progress)
            tasks = await self._start(everyone, clients, of_groups)
            await self._wait(tasks)
            await client.aclose()
        return singles, together

    async def _start(
        self, everyone: Sequence[Followed | FollowedGroup], clients: Clients, groups: GroupClients
    ) -> list[asyncio.Task[None]]:
        tasks: list[asyncio.Task[None]] = []
        for followed in everyone:
            while self._room.locked():
                if self._progress.stalled_s >= STALLED_S:
                    return tasks
                await self._look(POLL_S)
            await self._room.acquire()
            if isinstance(followed, FollowedGroup):
                following = self._follow(f"group {followed.group.number}", groups.follow(followed))
            else:
                following = self._follow(f"job {followed.job.number}", clients.follow(followed))
            tasks.append(asyncio.create_task(following))
        return tasks

    async def _follow(self, name: str, following: Coroutine[Any, Any, None]) -> None:
        try:
            await following
        except* Exception as errors:  # noqa: BLE001 - whatever it is, the report tells it
            self.surprises += [f"{name}: {e!r}" for e in errors.exceptions]
        finally:
            self._room.release()

    async def _wait(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        while not all(task.done() for task in tasks):
            await self._look(POLL_S)
            if self._progress.stalled_s >= STALLED_S:
                self.surprises.append(f"nothing came on for {STALLED_S:g} s")
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, pause_s: float) -> None:
        self._fleet.restart_what_died()
        await asyncio.sleep(pause_s)


async def _settle(fleet: Fleet) -> None:
    """Wait until every worker is back, so that nothing is being handed over any more."""
    try:
        async with asyncio.timeout(SETTLE_S):
            await fleet.all_loaded()
    except TimeoutError:
        fleet.surprises.append(f"not every worker was back after {SETTLE_S:g} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; returns the exit status."""
    options = _options(arguments)
    options.folder.mkdir(parents=True)
    _say(f"random seed {options.seed}, {options.num_jobs} jobs, report in {options.folder}")
    try:
        with asyncio.Runner() as runner:
            report = runner.run(_until_signal(options))
    except (NoReference, TimeoutError) as error:
        _say(f"the run could not begin: {error!r}; its logs are in {options.folder}")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("stopped")
        return 130
    report.write(options.folder)
    _say(report.table())
    if report.is_good:
        return 0
    lines = [*first_problems(report.bad), *report.problems]
    _say("\n".join(["", *lines, f"all of it is in {options.folder}"]))
    return 1


async def _until_signal(options: Options) -> Report:
    # SIGTERM ends the run as Ctrl-C does: with everything stopped that was started.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(options)


def _options(arguments: Sequence[str] | None) -> Options:
    environment = os.environ
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=int(environment.get("JOBS") or JOBS))
    parser.add_argument("--seed", type=int, default=environment.get("SEED") or None)
    parser.add_argument("--folder", type=Path, help="for the report and all logs; must be new")
    parser.add_argument("--appendfsync", default=environment.get("APPENDFSYNC") or "always")
    parser.add_argument("--short", action="store_true", help="the short list, as in `make test`")
    parser.add_argument(
        "--upstream",
        choices=("llama",),
        default=environment.get("UPSTREAM") or None,
        help="what generates for the workers: llama.cpp's server (`make llama-cpp`)",
    )
    given = parser.parse_args(arguments)
    if given.upstream and not IS_THERE:
        parser.error("--upstream llama needs llama-cpp-python: `make llama-cpp` builds it")
    short_list = UPSTREAM_LIST if given.upstream else SHORT_LIST
    seed = given.seed if given.seed is not None else secrets.randbelow(1_000_000)
    seed = SHORT_SEED if given.short else seed
    folder = ROOT / "logs" / "chaos" / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{seed}"
    return Options(
        seed=seed,
        num_jobs=SHORT_JOBS if given.short else given.jobs,
        at_once=SHORT_AT_ONCE if given.short else AT_ONCE,
        folder=given.folder or folder,
        appendfsync=given.appendfsync,
        faults=short_list if given.short else None,
        has_upstream=given.upstream is not None,
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
