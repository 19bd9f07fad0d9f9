"""A gateway and a real worker process while Redis dies, hangs, refuses or forgets its connections.

Whatever happens to Redis, a stream that was open goes on where it was and has every token once; the
same worker runs the job to its end in its first attempt; what cannot be done meanwhile is answered
with 503; and afterwards all is as before, without anybody's help.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from common import keys
from common.connection import SyncRedis, connect
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway
from tests.integration.api.support import ALICE, Frame, Stream, open_stream, submit, text_of
from tests.integration.stores import Bench
from tests.redis_server import RedisServer
from tests.worker_process import MODEL, WorkerProcess

LEASE_S = 3
NUM_TOKENS = 150  # 1.5 s at the worker's pace
NUM_SLOTS = 2
DEADLINE_S = 60


class Service:
    """One gateway, one worker, one Redis.

    Attributes:
        http: A client with a key.
        admin: Speaks to Redis as an operator does.
    """

    def __init__(
        self, server: RedisServer, worker: WorkerProcess, http: httpx.AsyncClient, admin: SyncRedis
    ) -> None:
        self.server = server
        self.worker = worker
        self.http = http
        self.admin = admin

    async def restart(self) -> None:
        self.server.kill()
        await asyncio.to_thread(self.server.start)

    async def reset_connections(self) -> None:
        self.admin.client_kill_filter(_type="normal", skipme=True)
        self.admin.client_kill_filter(_type="pubsub")

    async def wait_for_health(self, status: str) -> None:
        await self._until(lambda: self.http.get("/health"), lambda r: r.json()["status"] == status)

    async def wait_until_refused(self, path: str = "/generate") -> httpx.Response:
        """Submit until the answer is 503; a Redis that is about to go may still take some."""
        return await self._until(
            lambda: self.http.post(path, json={"prompt": "x", "max_tokens": 1}),
            lambda response: response.status_code == 503,
        )

    async def wait_until_ended(self, *task_ids: str) -> None:
        for task_id in task_ids:
            await self._until(
                lambda path=f"/status/{task_id}": self.http.get(path),  # type: ignore[misc]
                lambda r: r.status_code == 200 and r.json()["status"] == "completed",
            )

    async def _until(
        self,
        ask: Callable[[], Awaitable[httpx.Response]],
        is_it: Callable[[httpx.Response], bool],
    ) -> httpx.Response:
        async with asyncio.timeout(DEADLINE_S):
            while not is_it(response := await ask()):
                assert response.status_code in (200, 202, 503), response.text
                await asyncio.sleep(0.05)
        return response

    def check_was_run_once(self, task_id: str) -> None:
        """The same claim ran the job to its end: nobody took it back, and nothing crashed."""
        attempts, crashes = self.admin.hmget(keys.job(task_id), "attempts", "crashes")
        assert (attempts, crashes) == ("1", "0")
        assert self.worker.is_alive, "".join(self.worker.output)


@pytest.fixture
def admin(own_redis: RedisServer) -> Iterator[SyncRedis]:
    with connect(own_redis.url) as client:
        yield client


@pytest.fixture
def worker(own_redis: RedisServer, tmp_path: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(own_redis.url, tmp_path, LEASE_S=LEASE_S, MAX_BATCH_SIZE=NUM_SLOTS)
    worker.wait_until_ready()
    yield worker
    worker.stop()


@pytest.fixture
async def service(
    own_redis: RedisServer, worker: WorkerProcess, admin: SyncRedis, tmp_path: Path
) -> AsyncIterator[Service]:
    settings = Settings(
        _env_file=None,
        api_keys=[ALICE],
        redis_url=own_redis.url,
        model_name=MODEL,
        log_dir=tmp_path,
        lease_s=LEASE_S,
        rate_limit_per_minute=60_000,
        rate_limit_burst=10_000,
    )
    gateway = LiveGateway(settings)
    async with gateway.client() as http:
        service = Service(own_redis, worker, http, admin)
        await service.wait_for_health("healthy")
        yield service
    await gateway.stop()


def expected_text(num_tokens: int) -> str:
    return "".join(f"{token} " for token in range(num_tokens)) + "end"


async def first_tokens(stream: Stream) -> list[Frame]:
    frames = [await stream.next()]
    while len(text_of(frames)) < 20:
        frames.append(await stream.next())
    return frames


async def stream_through(service: Service, fault: Callable[[], Awaitable[object]]) -> str:
    """Stream a job, with a fault in the middle, and check all that must hold; the job's id."""
    task_id = await submit(service.http, max_tokens=NUM_TOKENS)
    async with open_stream(service.http, task_id) as stream:
        frames = await first_tokens(stream)
        await fault()
        async with asyncio.timeout(DEADLINE_S):
            frames += await stream.rest()
    assert text_of(frames) == expected_text(NUM_TOKENS)
    assert frames[-1].data["status"] == "completed"
    ids = [frame.eid for frame in frames if frame.eid is not None]
    assert ids == sorted(set(ids))
    service.check_was_run_once(task_id)
    await service.wait_until_ended(await submit(service.http, max_tokens=3))
    return task_id


async def test_redis_restarts(service: Service) -> None:
    await stream_through(service, service.restart)


async def test_redis_restarts_twice_in_a_row(service: Service) -> None:
    async def twice() -> None:
        await service.restart()
        await service.restart()

    await stream_through(service, twice)


async def test_connections_are_reset_again_and_again(service: Service) -> None:
    async def reset_often() -> None:
        for _ in range(20):
            await service.reset_connections()
            assert (await service.http.get("/health")).status_code == 200

    await stream_through(service, reset_often)


async def test_redis_is_paused_while_a_stream_runs(service: Service) -> None:
    async def pause() -> None:
        service.admin.execute_command("CLIENT", "PAUSE", 2000, "ALL")

    await stream_through(service, pause)


@pytest.mark.slow
async def test_redis_is_paused_for_longer_than_anybody_waits_for_a_reply(service: Service) -> None:
    async def pause() -> None:
        service.admin.execute_command("CLIENT", "PAUSE", 10_000, "ALL")
        response = await service.http.post("/generate", json={"prompt": "x", "max_tokens": 1})
        # It waited until Redis was back, or says when to come again.
        assert response.status_code == 202 or int(response.headers["Retry-After"]) >= 1
        await service.wait_for_health("healthy")

    await stream_through(service, pause)


async def test_redis_hangs(service: Service) -> None:
    async def freeze() -> None:
        os.kill(service.server.pid, signal.SIGSTOP)
        await service.wait_for_health("unhealthy")
        os.kill(service.server.pid, signal.SIGCONT)
        await service.wait_for_health("healthy")

    await stream_through(service, freeze)


@pytest.mark.slow
async def test_redis_hangs_for_ten_seconds(service: Service) -> None:
    async def freeze() -> None:
        os.kill(service.server.pid, signal.SIGSTOP)
        await asyncio.sleep(10)
        os.kill(service.server.pid, signal.SIGCONT)
        await service.wait_for_health("healthy")

    await stream_through(service, freeze)


async def test_redis_is_away_for_longer_than_a_lease(service: Service) -> None:
    async def be_away() -> None:
        service.server.kill()
        response = await service.wait_until_refused()
        assert int(response.headers["Retry-After"]) >= 1
        await asyncio.sleep(2 * LEASE_S)  # what is tested is that so much time has passed
        await asyncio.to_thread(service.server.start)

    await stream_through(service, be_away)


async def test_redis_reads_its_file_for_a_while(service: Service) -> None:
    for _ in range(20):
        pipe = service.admin.pipeline(transaction=False)
        for _ in range(1000):
            pipe.set("filler", "")
        pipe.execute()
    service.admin.delete("filler")

    async def restart_slowly() -> None:
        service.server.kill()
        # Microseconds for each write in the file: some seconds in all.
        starting = asyncio.create_task(asyncio.to_thread(service.server.start, key_load_delay=200))
        while not await asyncio.to_thread(says_loading, service.server.url):
            assert not starting.done()
        response = await service.http.post("/generate", json={"prompt": "x"})
        assert (response.status_code, starting.done()) == (503, False)
        assert int(response.headers["Retry-After"]) >= 1
        await starting

    await stream_through(service, restart_slowly)


def says_loading(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return not client.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False


async def test_redis_becomes_read_only(service: Service) -> None:
    async def lose_and_win_the_lead() -> None:
        service.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        response = await service.wait_until_refused()
        assert response.json()["error_type"] == "RedisUnavailableError"
        assert int(response.headers["Retry-After"]) >= 1
        await asyncio.to_thread(service.worker.wait_for, "output is kept")
        service.admin.execute_command("REPLICAOF", "NO", "ONE")

    await stream_through(service, lose_and_win_the_lead)


async def test_redis_is_full(service: Service) -> None:
    waiting: list[str] = []

    async def fill_and_free() -> None:
        waiting.extend([await submit(service.http, max_tokens=5) for _ in range(2 * NUM_SLOTS)])
        service.admin.config_set("maxmemory", 1)
        response = await service.wait_until_refused()
        assert response.json()["error_type"] == "RedisUnavailableError"
        assert int(response.headers["Retry-After"]) >= 1
        await asyncio.to_thread(service.worker.wait_for, "output is kept")
        service.admin.config_set("maxmemory", 0)

    await stream_through(service, fill_and_free)
    await service.wait_until_ended(*waiting)
    for task_id in waiting:
        service.check_was_run_once(task_id)


async def test_redis_has_no_room_on_its_disk(service: Service) -> None:
    async def fill_and_free() -> None:
        service.server.fill_disk()
        response = await service.wait_until_refused()
        assert int(response.headers["Retry-After"]) >= 1
        await asyncio.to_thread(service.worker.wait_for, "output is kept")
        service.server.free_disk()

    await stream_through(service, fill_and_free)


async def test_what_is_stored_can_be_read_while_redis_refuses_to_write(service: Service) -> None:
    task_id = await submit(service.http, max_tokens=3)
    await service.wait_until_ended(task_id)
    service.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    await service.wait_until_refused()
    assert (await service.http.get(f"/result/{task_id}")).json()["result"] == expected_text(3)
    async with open_stream(service.http, task_id) as stream:
        assert text_of(await stream.rest()) == expected_text(3)
    service.admin.execute_command("REPLICAOF", "NO", "ONE")


async def test_every_call_may_meet_a_server_that_has_just_restarted(
    bench: Bench, client: SyncRedis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(redis_url) as operator:
        get_connection = client.connection_pool.get_connection

        def forget_scripts(*args: object) -> object:
            operator.script_flush()
            return get_connection(*args)

        monkeypatch.setattr(client.connection_pool, "get_connection", forget_scripts)
        job_id = await bench.submit()
        claim = bench.claim()
        assert bench.append(claim, 0, 5).committed == 1
        assert bench.append(claim, 1, 6, 7).committed == 3
        assert bench.claims.release(job_id, claim.nonce) == "requeued"
