"""A job of several choices whose worker is killed with each choice at a place of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from common import keys
from common.connection import SyncRedis, connect, connect_async
from common.job_store import Submissions
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobSpec, Prompt
from common.settings import Settings
from tests.e2e.service import KEY, Service
from tests.redis_server import RedisServer

TIMEOUT_S = 120
SAMPLING = SamplingSpec(
    max_tokens=500, time_limit_s=120, seed=5, n=3, stop=("Lily",), prompt_logprobs=2
)


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def submit(url: str, model: str, sampling: SamplingSpec) -> str:
    """What a gateway does that knows the model."""
    job = JobSpec(
        *(str(uuid.uuid4()), KEY, model, "normal", sampling, "token", "request"),
        prompt=Prompt(text="Once upon a time", raw=True),
    )

    async def send() -> None:
        client = connect_async(url)
        await Submissions(client, Settings(_env_file=None)).submit(job)
        await client.aclose()

    asyncio.run(send())
    return job.job_id


def record(client: SyncRedis, job_id: str) -> JobRecord:
    return JobRecord.from_fields(job_id, client.hgetall(keys.job(job_id)))


def wait_until(client: SyncRedis, job_id: str, holds: Callable[[JobRecord], bool]) -> JobRecord:
    """Look again whenever the job's doorbell rings."""
    until = time.monotonic() + TIMEOUT_S
    with client.pubsub() as bell:  # type: ignore[no-untyped-call]
        bell.subscribe(keys.bell(job_id))
        while not holds(found := record(client, job_id)):
            assert time.monotonic() < until
            bell.get_message(timeout=1.0)
    return found


def test_killed_in_its_middle_it_has_the_tokens_that_it_would_have_had(
    start_service: Callable[..., Service], redis_server: RedisServer
) -> None:
    url: Any = redis_server.url
    service = start_service(REDIS_URL=url)
    service.wait_until_ready()
    with service.http() as http:
        model = http.get("/models").json()["models"][0]["id"]
    with connect(url) as client:
        undisturbed = submit(url, model, SAMPLING)
        expected = wait_until(client, undisturbed, lambda found: found.status.is_final)
        assert expected.status == "completed"
        lengths = sorted(len(choice.token_ids) for choice in expected.choices)
        assert lengths[0] < lengths[-1], "they end at different places"

        # A choice of its own gives the same tokens alone.
        alone = submit(url, model, replace(SAMPLING, n=1))
        first = wait_until(client, alone, lambda found: found.status.is_final)
        assert first.choices[0] == expected.choices[0]

        killed = submit(url, model, SAMPLING)
        wait_until(client, killed, lambda found: found.completion_tokens >= sum(lengths) // 2)
        [worker] = service.pids("worker.main")
        os.kill(worker, signal.SIGKILL)
        assert not record(client, killed).status.is_final
        got = wait_until(client, killed, lambda found: found.status.is_final)
    assert got.status == "completed"
    assert got.attempts > 1
    assert got.choices == expected.choices
    # Worked out once more: sums of another batch round differently.
    logprobs = [one.logprob for one in got.prompt_logprobs if one is not None]
    first_ones = [one.logprob for one in expected.prompt_logprobs if one is not None]
    assert logprobs == pytest.approx(first_ones, abs=1e-3)
    assert len(logprobs) == (got.prompt_tokens or 0) - 1 > 0
