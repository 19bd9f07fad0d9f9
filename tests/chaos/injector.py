"""Does the faults to the fleet, and writes down what it did and when."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from tests.chaos.faults import Fault, FaultKind
from tests.chaos.fleet import Fleet, Gateway, Member, Worker
from tests.chaos.process import send_to, until
from tests.chaos.proxy import Network
from tests.chaos.upstream import Upstream

_NETWORKS = {
    FaultKind.REFUSE: Network.REFUSED,
    FaultKind.BLACK_HOLE: Network.BLACK_HOLED,
    FaultKind.LONG_BLACK_HOLE: Network.BLACK_HOLED,
    FaultKind.LOSE_REPLIES: Network.REPLIES_LOST,
}
_WORKER_FAULTS = (
    FaultKind.KILL_WORKER,
    FaultKind.KILL_LAUNCHER,
    FaultKind.FREEZE_WORKER,
    FaultKind.TERM_WORKER,
)
_GATEWAY_FAULTS = (FaultKind.KILL_GATEWAY, FaultKind.TERM_GATEWAY)
_REDIS_FAULTS = (
    FaultKind.KILL_REDIS,
    FaultKind.TERM_REDIS,
    FaultKind.STOP_REDIS,
    FaultKind.PAUSE_REDIS,
)

HOLD_S, LONGEST_HOLD_S = 0.2, 60.0


@dataclass(frozen=True)
class Injected:
    """A fault that was done, in seconds of the run.

    Attributes:
        end_s: When what broke was mended or was started again.
    """

    kind: FaultKind
    target: str
    start_s: float
    end_s: float

    def overlaps(self, start_s: float, end_s: float) -> bool:
        """Whether it was under way in a stretch of time."""
        return self.start_s <= end_s and self.end_s >= start_s


class Injector:
    """Does faults to a fleet.

    Args:
        started_at: `time.monotonic()` at the run's second 0.
    """

    def __init__(self, fleet: Fleet, started_at: float) -> None:
        self.done: list[Injected] = []
        self._fleet = fleet
        self._started_at = started_at

    async def run(self, faults: Iterable[Fault], stop: asyncio.Event) -> None:
        """Do one fault after another, overlapping as they come, until they end or a stop.

        Those under way are brought to their end, and everything is mended.
        """
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                if await _is_set_within(stop, fault.pause_s):
                    break
                if fault.kind in _WORKER_FAULTS:
                    await self._some_worker(stop)
                group.create_task(self.inject(fault))
        await self._fleet.heal()

    async def _some_worker(self, stop: asyncio.Event) -> None:
        """Hold the next death back until any worker takes jobs.

        On a slow machine workers would else die faster than they load, and nothing would come on.
        """
        for _ in range(int(LONGEST_HOLD_S / HOLD_S)):
            if await self._fleet.loaded_pids() or await _is_set_within(stop, HOLD_S):
                return

    async def inject(self, fault: Fault) -> None:
        """Do one fault, from its beginning to its mending.

        Two faults of one process, or two of Redis, come one after the other.
        """
        if fault.kind in _REDIS_FAULTS:
            async with self._fleet.redis_busy:
                await self._record(fault, "redis", self._break_redis(fault))
        elif fault.kind in _NETWORKS:
            one = self._fleet.members[fault.target % len(self._fleet.members)]
            if isinstance(one, Worker):
                one = await self._worth_breaking(fault.target)
            async with one.busy:
                await self._record(fault, one.name, _break_network(one, fault))
        elif fault.kind in _GATEWAY_FAULTS:
            gateway = self._fleet.gateways[fault.target % len(self._fleet.gateways)]
            async with gateway.busy:
                await self._record(fault, gateway.name, self._break_gateway(gateway, fault))
        elif fault.kind is FaultKind.KILL_UPSTREAM:
            upstream = self._fleet.upstream
            assert upstream is not None, "it is drawn only where there is one"
            async with upstream.busy:
                await self._record(fault, "upstream", _break_upstream(upstream, fault))
        else:
            worker = await self._worth_breaking(fault.target)
            async with worker.busy:
                await self._record(fault, worker.name, _break_worker(worker, fault))

    async def _record(self, fault: Fault, target: str, work: Awaitable[None]) -> None:
        start_s = self._now_s()
        await work
        self.done.append(Injected(fault.kind, target, start_s, self._now_s()))

    def _now_s(self) -> float:
        return time.monotonic() - self._started_at

    async def _worth_breaking(self, target: int) -> Worker:
        """One that runs a job, else one that takes jobs: the death of another one hits nobody."""
        workers = self._fleet.workers
        order = [*workers[target % len(workers) :], *workers[: target % len(workers)]]
        free = [worker for worker in order if not worker.busy.locked()]
        for pids in (await self._fleet.running_pids(), await self._fleet.loaded_pids()):
            for worker in free:
                if worker.pid in pids:
                    return worker
        return (free or order)[0]

    async def _break_gateway(self, gateway: Gateway, fault: Fault) -> None:
        if fault.kind is FaultKind.KILL_GATEWAY:
            await gateway.process.kill()
        else:
            await gateway.process.stop()
        await asyncio.sleep(fault.duration_s)
        gateway.process.start()
        await self._fleet.answers(gateway)

    async def _break_redis(self, fault: Fault) -> None:
        fleet = self._fleet
        if fault.kind is FaultKind.STOP_REDIS:
            fleet.redis.send(signal.SIGSTOP)
            await asyncio.sleep(fault.duration_s)
            fleet.redis.send(signal.SIGCONT)
        elif fault.kind is FaultKind.PAUSE_REDIS:
            await fleet.client.client_pause(int(fault.duration_s * 1000))
            await asyncio.sleep(fault.duration_s)
        else:
            if fault.kind is FaultKind.KILL_REDIS:
                await fleet.redis.kill()
            else:
                await fleet.redis.stop()
            await asyncio.sleep(fault.duration_s)
            await fleet.start_redis()


async def _break_network(one: Member, fault: Fault) -> None:
    one.proxy.change(_NETWORKS[fault.kind])
    await asyncio.sleep(fault.duration_s)
    one.proxy.change(Network.UP)


async def _break_upstream(upstream: Upstream, fault: Fault) -> None:
    await upstream.process.kill()
    await asyncio.sleep(fault.duration_s)
    await upstream.start()


async def _break_worker(worker: Worker, fault: Fault) -> None:
    pid = worker.pid
    if fault.kind is FaultKind.FREEZE_WORKER:
        if pid is not None:
            send_to(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.duration_s)
            send_to(pid, signal.SIGCONT)
    elif fault.kind is FaultKind.KILL_WORKER:
        if pid is not None:
            send_to(pid, signal.SIGKILL)
            await until(lambda: worker.pid != pid)
    else:
        if fault.kind is FaultKind.KILL_LAUNCHER:
            # In either order: the launcher must not need to see its worker die.
            pids = [p for p in (worker.process.pid, pid) if p is not None]
            for each in pids if fault.target % 2 else reversed(pids):
                send_to(each, signal.SIGKILL)
            await worker.process.ended()
        else:
            await worker.process.stop()
        await asyncio.sleep(fault.duration_s)
        worker.process.start()


async def _is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
