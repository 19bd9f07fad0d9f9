"""Every process of a run: Redis, gateways and workers, each of these behind a proxy of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import redis
import redis.asyncio

from common import keys
from common.settings import Settings, load_settings
from tests.chaos.jobs import KEYS
from tests.chaos.model import write_letter_model
from tests.chaos.process import POLL_S, ServiceProcess, send_to
from tests.chaos.proxy import Network, Proxy
from tests.chaos.upstream import Upstream
from tests.ports import free_ports
from tests.redis_server import find_binary

ROOT = Path(__file__).parents[2]
NUM_GATEWAYS = 2
NUM_WORKERS = 3
LEASE_S = 4.0
START_TIMEOUT_S = 120.0
REDIS_IS_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)


class Member:
    """A process of the service, and the network between it and Redis.

    Attributes:
        busy: Held by the fault that breaks it.
    """

    def __init__(self, process: ServiceProcess, proxy: Proxy) -> None:
        self.process = process
        self.proxy = proxy
        self.busy = asyncio.Lock()

    @property
    def name(self) -> str:
        """As in the report."""
        return self.process.name


class Gateway(Member):
    """A gateway; its address is `url`."""

    def __init__(self, process: ServiceProcess, proxy: Proxy, url: str) -> None:
        super().__init__(process, proxy)
        self.url = url


class Worker(Member):
    """A launcher (`process`) with its one worker process."""

    @property
    def pid(self) -> int | None:
        """Of the worker process; None while there is none."""
        children = self.process.children()
        return children[0] if children else None


class Fleet:
    """The whole service on free ports of 127.0.0.1.

    Args:
        folder: Takes the model, Redis's data and all logs.
        appendfsync: Of Redis: always, everysec or no.
        settings: Of gateways and workers, in place of the suite's own.
        upstream: The server that generates for the workers; None: they do it themselves.
    """

    def __init__(
        self,
        folder: Path,
        *,
        appendfsync: str = "always",
        settings: Mapping[str, str] | None = None,
        upstream: Upstream | None = None,
    ) -> None:
        self.folder = folder
        self.upstream = upstream
        self._settings = {**(upstream.settings if upstream else {}), **(settings or {})}
        redis_port, *ports = free_ports(1 + 2 * NUM_GATEWAYS + NUM_WORKERS)
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.redis_busy = asyncio.Lock()
        self.redis = ServiceProcess(
            "redis",
            [
                *(find_binary(), "--bind", "127.0.0.1", "--port", str(redis_port)),
                *("--dir", str(self._made("redis")), "--save", "", "--appendonly", "yes"),
                *("--appendfsync", appendfsync, "--maxmemory-policy", "noeviction"),
            ],
            self._inherited(),
            self._made("output") / "redis.log",
        )
        # The suite's own look at Redis, past the proxies.
        self.client = redis.asyncio.Redis.from_url(
            self.redis_url, decode_responses=True, socket_timeout=2.0, socket_connect_timeout=2.0
        )
        self.surprises: list[str] = []
        """Processes that ended without a fault's doing."""
        self.gateways = [
            self._gateway(number, redis_port, proxy_port=ports.pop(), port=ports.pop())
            for number in range(NUM_GATEWAYS)
        ]
        self.workers = [
            self._worker(number, redis_port, proxy_port=ports.pop())
            for number in range(NUM_WORKERS)
        ]

    @property
    def urls(self) -> list[str]:
        """The gateways' addresses."""
        return [gateway.url for gateway in self.gateways]

    @property
    def members(self) -> list[Member]:
        """Every process that stands behind a proxy."""
        return [*self.workers, *self.gateways]

    async def start(self) -> None:
        """Start everything and wait until every worker has loaded the model.

        Raises:
            TimeoutError: That took too long; the logs say why.
        """
        write_letter_model(self._model)
        if self.upstream is not None:
            await asyncio.to_thread(self.upstream.write_model)
            await self.upstream.start()
        await self.start_redis()
        for each in self.members:
            await each.proxy.start()
        for process in self._service:
            process.start()
        async with asyncio.timeout(START_TIMEOUT_S):
            for gateway in self.gateways:
                await self.answers(gateway)
            await self.all_loaded()

    async def all_loaded(self) -> None:
        """Wait until every worker takes jobs."""
        while len(await self.loaded_pids()) < NUM_WORKERS:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(5 * POLL_S)

    async def start_redis(self) -> None:
        """Start Redis and wait until it has read its file and answers."""
        self.redis.start()
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                with suppress(*REDIS_IS_AWAY):
                    await self.client.ping()
                    return
                assert self.redis.pid is not None, "redis-server did not start"
                await asyncio.sleep(POLL_S)

    async def answers(self, gateway: Gateway) -> None:
        """Wait until a gateway answers."""
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                with suppress(httpx.TransportError):
                    await http.get(f"{gateway.url}/health/live")
                    return
                await asyncio.sleep(POLL_S)

    async def loaded_pids(self) -> set[int]:
        """The worker processes that say that they take jobs; empty while Redis is away."""
        announced = await self._announced()
        ready = {
            pid for pid, models in announced.values() if any(m["state"] == "ready" for m in models)
        }
        return ready & {worker.pid for worker in self.workers if worker.pid is not None}

    async def running_pids(self) -> set[int]:
        """The worker processes that run a job now; empty while Redis is away."""
        announced = await self._announced()
        try:
            job_ids = await self.client.zrange(keys.LEASES, 0, -1)
            holders = {await self.client.hget(keys.job(str(i)), "worker") for i in job_ids}
        except REDIS_IS_AWAY:
            return set()
        return {pid for worker_id, (pid, _) in announced.items() if worker_id in holders}

    async def _announced(self) -> dict[str, tuple[int, list[dict[str, Any]]]]:
        """What the workers say of themselves: by id, the pid and how the model is."""
        try:
            ids = [str(i) for i in await self.client.zrange(keys.WORKERS, 0, -1)]
            packed = await self.client.mget([keys.worker(i) for i in ids]) if ids else []
        except REDIS_IS_AWAY:
            return {}
        said = {i: json.loads(each) for i, each in zip(ids, packed, strict=True) if each}
        return {i: (each["pid"], list(each["models"].values())) for i, each in said.items()}

    def restart_what_died(self) -> None:
        """Start again what ended though no fault has touched it, and note that it did."""
        for each in self.members:
            process = each.process
            if process.pid is None and not each.busy.locked():
                self.surprises.append(f"{process.name} ended by itself")
                process.start()

    async def heal(self) -> None:
        """Mend every network and start what does not run."""
        self.redis.send(signal.SIGCONT)
        for each in self.members:
            each.proxy.change(Network.UP)
        for worker in self.workers:
            if worker.pid is not None:
                send_to(worker.pid, signal.SIGCONT)
        if self.redis.pid is None:
            await self.start_redis()
        for process in self._service:
            if process.pid is None:
                process.start()

    async def stop(self) -> None:
        """End everything that was started."""
        pids = [pid for worker in self.workers for pid in worker.process.children()]
        for pid in pids:
            send_to(pid, signal.SIGCONT)
        try:
            await asyncio.gather(*(process.stop() for process in self._service))
            await self.redis.stop()
        finally:
            # Also where the stop itself was cut short.
            behind = [] if self.upstream is None else [self.upstream.process]
            for process in (*self._service, self.redis, *behind):
                process.send(signal.SIGKILL)
            await self.client.aclose()
            for each in self.members:
                await each.proxy.stop()

    @property
    def _service(self) -> list[ServiceProcess]:
        return [each.process for each in self.members]

    @property
    def _model(self) -> Path:
        return self.folder / "model"

    def _gateway(self, number: int, redis_port: int, proxy_port: int, port: int) -> Gateway:
        name = f"gateway-{number}"
        process = self._process(name, "api", {"PORT": str(port)}, proxy_port)
        return Gateway(process, Proxy(proxy_port, redis_port), f"http://127.0.0.1:{port}")

    def _worker(self, number: int, redis_port: int, proxy_port: int) -> Worker:
        launcher = self._process(f"worker-{number}", "worker", {"DEVICE": "cpu"}, proxy_port)
        return Worker(launcher, Proxy(proxy_port, redis_port))

    @property
    def settings(self) -> Settings:
        """As every gateway and worker has them, but for ports and devices."""
        return load_settings(**{name.lower(): value for name, value in self._common().items()})

    def _common(self) -> dict[str, str]:
        values = {
            "API_KEYS": ",".join(KEYS),
            "MODEL_NAME": str(self._model),
            "DTYPE": "float32",
            "MAX_BATCH_SIZE": "8",
            "LEASE_S": f"{LEASE_S:g}",
            # A worker's death is nothing that these jobs have done.
            "MAX_ATTEMPTS": "1000",
            "TASK_TIME_LIMIT": "3600",
            "STREAM_GRACE_S": "7200",
            "RATE_LIMIT_PER_MINUTE": "600000",
            "RATE_LIMIT_BURST": "10000",
        }
        return {**values, **self._settings}

    def _process(
        self, name: str, command: str, settings: Mapping[str, str], proxy_port: int
    ) -> ServiceProcess:
        values = {
            "REDIS_URL": f"redis://127.0.0.1:{proxy_port}/0",
            "LOG_DIR": str(self._made("logs") / name),
            "OMP_NUM_THREADS": "1",
        }
        return ServiceProcess(
            name,
            [sys.executable, "-m", "cli.main", command],
            {**self._inherited(), **self._common(), **values, **settings},
            self._made("output") / f"{name}.log",
        )

    def _inherited(self) -> dict[str, str]:
        kept = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        return kept | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path
