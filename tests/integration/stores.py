"""The stores of one test, and short names for what tests do with them."""

from __future__ import annotations

import uuid
from typing import Any

from common import keys
from common.connection import AsyncRedis, SyncRedis
from common.event_stream import Append, EventReader, EventWriter
from common.events import TokenEvent
from common.fleet import FleetReader, ServedModel, WorkerInfo
from common.job_store import Claim, Claims, Submissions
from common.reaping import Reaped, Reaping
from common.sampling import SamplingSpec
from common.schemas import JobClass, JobRecord, JobSpec
from common.settings import Settings

MODEL = "m"
REVISION = "r1:float32"
KEY = "key-a"


def settings(**changes: Any) -> Settings:
    values = {"rate_limit_per_minute": 60_000, "rate_limit_burst": 1000, "model_name": MODEL}
    return Settings(**(values | changes))


def spec(job_class: JobClass = "normal", key_id: str = KEY, n: int = 1) -> JobSpec:
    return JobSpec(
        job_id=str(uuid.uuid4()),
        key_id=key_id,
        model=MODEL,
        job_class=job_class,
        sampling=SamplingSpec(max_tokens=10, time_limit_s=60, seed=7, n=n),
        stream_token="token",
        request_id="request",
        prompt_ids=(1, 2, 3),
    )


def announcement(state: Any, worker_id: str = "w") -> str:
    models = {MODEL: ServedModel(state, "no such file" if state == "error" else None)}
    return WorkerInfo(worker_id, "host", 1, "0", "cpu", 8, 0, models).pack()


class Bench:
    """The stores of one test, and short names for what tests do with them."""

    def __init__(self, client: SyncRedis, aclient: AsyncRedis, **changes: Any) -> None:
        self.client = client
        self.settings = settings(**changes)
        self.submissions = Submissions(aclient, self.settings)
        self.reader = EventReader(aclient)
        self.fleet = FleetReader(aclient)
        self.claims = Claims(client, self.settings, "w")
        self.reaping = Reaping(client, self.settings)
        self.events = EventWriter(client)

    async def submit(self, job_class: JobClass = "normal", n: int = 1) -> str:
        job = spec(job_class, n=n)
        await self.submissions.submit(job)
        return job.job_id

    def claim(self) -> Claim:
        claim = self.claims.claim({MODEL: REVISION})
        assert claim is not None
        return claim

    async def record(self, job_id: str) -> JobRecord:
        return await self.submissions.get(job_id, KEY)

    def append(self, claim: Claim, position: int, *tokens: int, choice: int = 0) -> Any:
        event = TokenEvent(position, tokens, tuple(f"<{t}>" for t in tokens), choice)
        return self.events.append([Append(claim.record.job_id, claim.nonce, event, 5)])[0]

    def let_lease_pass(self, job_id: str) -> None:
        self.client.zadd(keys.LEASES, {job_id: 1})

    def reap(self) -> Reaped:
        # A reaper that ran just now: nobody was away.
        self.client.set(keys.REAPED, 2**53)
        return self.reaping.reap()
