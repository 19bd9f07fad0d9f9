"""What the lines of a batch are answered with: the same as where they were sent one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from api.cancelling import Canceller
from api.failures import failure_of
from api.fleet_poller import FleetPoller
from api.job_request import JobRequest
from api.openai.answer import Head, fingerprint_of
from api.openai.calls import Call
from api.tokenizers import Tokenizers
from common.errors import InternalError, NotFoundError, TaskExpiredError
from common.job_store import Submissions
from common.model_catalog import ModelCatalog
from common.schemas import JobRecord


class LineAnswers:
    """Names the jobs of lines, and reads their answers."""

    def __init__(
        self,
        catalog: ModelCatalog,
        jobs: Submissions,
        poller: FleetPoller,
        tokenizers: Tokenizers,
        canceller: Canceller,
    ) -> None:
        self._catalog = catalog
        self._jobs = jobs
        self._poller = poller
        self._tokenizers = tokenizers
        self._canceller = canceller

    def job_of(self, call: Call, batch_id: str, number: int) -> JobRequest:
        """What to submit for a line: submitted again, it makes no other job."""
        return replace(call.job, group_id=f"{batch_id.removeprefix('batch_')}-{number}")

    async def of(self, call: Call, group_id: str, job_ids: Sequence[str]) -> dict[str, Any]:
        """The body of a line's answer, once its jobs have ended.

        Raises:
            RequestError: There is none: a job has failed, or was dropped.
            RedisUnavailableError: Redis is away.
        """
        records = [await self._find(job_id) for job_id in job_ids]
        for record in records:
            if failure := failure_of(record, call.job.params):
                raise failure
        model = records[0].model  # it may not be there any more
        card = await self._poller.card(model)
        head = Head(
            call.id_prefix + group_id,
            min(record.created_ms for record in records) // 1000,
            model,
            fingerprint_of(card),
        )
        answer = await call.answer(head, card, self._tokenizers, records)
        return answer.whole(records)

    async def cancel(self, job_id: str, key_id: str) -> None:
        """Cancel a job of a line; one that has ended stays as it is."""
        try:
            await self._canceller.cancel(job_id, key_id)
        except (NotFoundError, TaskExpiredError):
            return

    async def _find(self, job_id: str) -> JobRecord:
        record = await self._jobs.find(job_id)
        if record is None:
            raise InternalError("The answer was dropped before it could be read.")
        return record
