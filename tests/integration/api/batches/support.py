"""A worker that answers every job by itself, and batches read back as a client would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from common.connection import SyncRedis
from common.job_store import Claim, Claims
from common.schemas import ChoiceResult, JobStatus, Outcome
from common.settings import Settings
from tests.integration.api.support import MODEL, REVISION

ENDPOINT = "/v1/chat/completions"
FINAL = {"completed", "failed", "expired", "cancelled"}


def text_of(request_id: str) -> str:
    """What the worker answers: which line it was."""
    return f"line {request_id.rpartition('_')[2]}"


class EchoWorker:
    """Answers each job with the number of its line.

    Attributes:
        answered: Request ids, each as often as it was answered.
    """

    def __init__(self, client: SyncRedis, settings: Settings) -> None:
        self._claims = Claims(client, settings, "echo")
        self.answered: list[str] = []

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Answer jobs inside."""
        working = asyncio.create_task(self._work())
        try:
            yield
        finally:
            working.cancel()

    async def _work(self) -> None:
        while True:
            if not await asyncio.to_thread(self.answer_one):
                await asyncio.sleep(0.005)

    def answer_one(self) -> bool:
        """Answer a job; False where there is none."""
        claim = self._claims.claim({MODEL: REVISION})
        if claim is None:
            return False
        self._end(claim)
        return True

    def _end(self, claim: Claim) -> None:
        request_id = claim.record.request_id
        text = text_of(request_id)
        outcome = Outcome(
            JobStatus.COMPLETED, (ChoiceResult(text, (), "stop"),), tails=(text,), prompt_tokens=3
        )
        assert self._claims.finish(claim.record.job_id, claim.nonce, outcome, 1) is None
        self.answered.append(request_id)


def line(custom_id: str, url: str = ENDPOINT, method: str = "POST", **body: Any) -> str:
    """One good line, or one with something else in it."""
    fields = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]} | body
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": fields})


async def upload(http: httpx.AsyncClient, lines: Sequence[str]) -> str:
    """Upload an input file; its id."""
    content = "\n".join(lines).encode()
    response = await http.post(
        "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}
    )
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def create(http: httpx.AsyncClient, file_id: str, **fields: Any) -> httpx.Response:
    """Submit a batch."""
    headers = fields.pop("headers", {})
    body = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"} | fields
    return await http.post("/v1/batches", json=body, headers=headers)


async def submit(http: httpx.AsyncClient, lines: Sequence[str], **fields: Any) -> str:
    """Submit lines as a batch that must be accepted; its id."""
    response = await create(http, await upload(http, lines), **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def get(http: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    """A batch as it stands."""
    response = await http.get(f"/v1/batches/{batch_id}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def until(http: httpx.AsyncClient, batch_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a batch is where it should come to."""
    async with asyncio.timeout(60):
        while (batch := await get(http, batch_id))["status"] not in statuses:
            assert batch["status"] not in FINAL, batch
            await asyncio.sleep(0.01)
    return batch


async def entries(http: httpx.AsyncClient, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none where there is no file."""
    if file_id is None:
        return []
    content = (await http.get(f"/v1/files/{file_id}/content")).text
    return [json.loads(each) for each in content.splitlines()]


async def outputs(http: httpx.AsyncClient, batch: dict[str, Any]) -> dict[str, str]:
    """The texts of a batch's answers by `custom_id`, which must be unique."""
    found = await entries(http, batch["output_file_id"])
    texts = {
        each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"]
        for each in found
    }
    assert len(texts) == len(found)
    return texts
