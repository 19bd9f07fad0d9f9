"""A gateway takes jobs back too: also where no worker is left to do it."""

from __future__ import annotations

import httpx

from common import keys
from common.connection import SyncRedis
from tests.integration.api.support import HandWorker, open_stream, submit


async def test_a_job_whose_lease_passed_is_in_line_again_while_no_worker_is_alive(
    live_http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "One")
    async with open_stream(live_http, task_id) as stream:
        assert (await stream.next()).data["status"] == "processing"
        assert (await stream.next()).token == "One"
        client.zadd(keys.LEASES, {task_id: 1})
        assert (await stream.next()).data["status"] == "queued"
        heir = worker.claim()
        assert heir.record.completion_tokens == 1
