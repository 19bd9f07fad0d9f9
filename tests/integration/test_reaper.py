"""The reaper's thread on a real Redis server: what it ends is told, and by name."""

from __future__ import annotations

import queue
import uuid

from common import keys
from common.connection import AsyncRedis, SyncRedis
from common.errors import ModelLoadError
from common.fleet import ServedModel, WorkerInfo
from common.job_store import Claims, Submissions
from common.reaping import Reaping
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobSpec, Outcome
from common.settings import Settings
from worker.reaper import Reaper

TIMEOUT_S = 20
SETTINGS = Settings(max_attempts=1)


async def submit(aclient: AsyncRedis) -> str:
    spec = JobSpec(
        *(str(uuid.uuid4()), "key", "m", "normal"),
        SamplingSpec(5, 60, 1),
        *("token", "request"),
        prompt_ids=(1,),
    )
    await Submissions(aclient, SETTINGS).submit(spec)
    return spec.job_id


def first_end(
    client: SyncRedis, claims: Claims, error: ModelLoadError | None
) -> tuple[JobRecord, Outcome]:
    """What a reaper tells of the first job that it ends."""
    ends: queue.Queue[tuple[JobRecord, Outcome]] = queue.Queue()
    reaping = Reaping(client, SETTINGS)
    reaper = Reaper(
        reaping, claims, lambda: {"m": error} if error else {}, lambda *end: ends.put(end)
    )
    reaper.start()
    try:
        return ends.get(timeout=TIMEOUT_S)
    finally:
        reaper.stop()


async def test_a_job_that_lost_its_worker_too_often_is_told(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    job_id = await submit(aclient)
    claims = Claims(client, SETTINGS, "w")
    assert claims.claim({"m": "r1"}) is not None
    client.zadd(keys.LEASES, {job_id: 1})
    client.set(keys.REAPED, 2**53)  # a reaper ran just now: nobody was away
    record, outcome = first_end(client, claims, None)
    assert (record.job_id, outcome.status, outcome.error_type) == (
        *(job_id, "failed", "WorkerLostError"),
    )


async def test_a_job_of_a_model_that_cannot_be_loaded_is_told_with_the_reason(
    client: SyncRedis, aclient: AsyncRedis
) -> None:
    job_id = await submit(aclient)
    claims = Claims(client, SETTINGS, "w")
    served = {"m": ServedModel("error", "no such file")}
    claims.heartbeat(WorkerInfo("w", "h", 1, "0", "cpu", 8, 0, served).pack(), [])
    record, outcome = first_end(
        client, claims, ModelLoadError("Model loading failed: no such file")
    )
    assert (record.job_id, outcome.error_type) == (job_id, "ModelLoadError")
    assert outcome.error_message == "Model loading failed: no such file"
