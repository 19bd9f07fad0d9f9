"""Jobs put in line without a gateway."""

from __future__ import annotations

import uuid
from typing import Any

from common.connection import Script, SyncRedis
from common.sampling import SamplingSpec
from common.schemas import JobSpec


def submit(client: SyncRedis, max_tokens: int | None = 3, **changes: Any) -> str:
    """Submit a job for a worker under test; its id."""
    values: dict[str, Any] = {
        "job_id": str(uuid.uuid4()),
        "key_id": "k",
        "model": "m",
        "job_class": "normal",
        "sampling": SamplingSpec(max_tokens=max_tokens, time_limit_s=60, seed=1),
        "stream_token": "t",
        "request_id": "r",
        "prompt_ids": (1, 2),
    }
    job = JobSpec(**(values | changes))
    fields = [part for pair in job.to_fields().items() for part in pair]
    Script("submit").call(
        client,
        *(job.job_id, "k", job.model, job.job_class, 1000, 1000, 1000, 1, "", ""),
        *(job.job_id, len(fields) // 2, *fields),
    )
    return job.job_id
