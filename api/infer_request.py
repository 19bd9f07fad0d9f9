"""The body of `POST /infer`, and the job that it asks for."""

from __future__ import annotations

from pydantic import Field

from api.job_request import JobRequest
from api.schemas import NameText
from common.infer_request import InferRequest
from common.sampling import SamplingSpec
from common.schemas import JobClass
from common.scorers import ScoringTask
from common.settings import Settings


class InferBody(InferRequest):
    """What to score, and how to treat the task."""

    user_id: NameText | None = Field(default=None, description="Your user, for your own tracking.")
    priority: JobClass = Field(default="normal", description="Which line to wait in.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that the task may run. Default and maximum: TASK_TIME_LIMIT (120).",
    )


def infer_job(body: InferBody, settings: Settings) -> JobRequest:
    """The one job of a request."""
    limit_s = settings.task_time_limit if body.timeout is None else body.timeout
    return JobRequest(
        prompts=(),
        sampling=SamplingSpec(max_tokens=0, time_limit_s=limit_s, seed=0),
        is_seeded=True,
        job_class=body.priority,
        user_id=body.user_id,
        inputs=tuple(body.prompts),
        scoring=ScoringTask(body.name, body.candidates, body.batch_size),
    )
