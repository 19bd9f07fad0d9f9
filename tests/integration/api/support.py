"""A worker that the test plays by hand, and a client that reads a stream frame by frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from common.connection import SyncRedis
from common.event_stream import Append, EventWriter
from common.events import TokenEvent
from common.fleet import FleetWriter, ServedModel, WorkerInfo, tokenizer_sha256
from common.job_store import Claim, Claims
from common.model_card import ModelCard
from common.schemas import ChoiceResult, EngineTimings, JobStatus, Outcome
from common.settings import Settings
from common.token_logprobs import TokenLogprobs
from tests.fakes import byte_tokenizer

REVISION = "r1:float32"
MODEL = "baton-toy"
ALICE, BOB = "alice-key", "bob-key"
AS_ALICE, AS_BOB = {"X-API-Key": ALICE}, {"X-API-Key": BOB}


class HandWorker:
    """Claims, generates and ends jobs as the test says. Token number n has id n."""

    def __init__(self, client: SyncRedis, settings: Settings) -> None:
        self.claims = Claims(client, settings, "by-hand")
        self._writer = EventWriter(client)
        self._fleet = FleetWriter(client)
        self._texts: dict[str, list[str]] = {}

    def announce(
        self,
        state: Any = "ready",
        reason: str | None = None,
        gpu_memory: dict[str, int] | None = None,
        **others: ServedModel,
    ) -> None:
        """Beat once. `others` are models beside the usual one."""
        info = WorkerInfo(
            worker_id="by-hand",
            host="here",
            pid=1,
            version="0",
            device="cpu",
            slots=2,
            running=0,
            models={MODEL: ServedModel(state, reason), **others},
            gpu_memory=gpu_memory,
        )
        self.claims.heartbeat(info.pack(), [])

    def publish(self, card: ModelCard, tokenizer_json: str | None = None) -> None:
        """Publish a card, with the byte tokenizer unless another one is given."""
        tokenizer_json = tokenizer_json or byte_tokenizer()
        card = replace(card, tokenizer_sha256=tokenizer_sha256(tokenizer_json))
        self._fleet.publish_card(card, tokenizer_json)

    def claim(self) -> Claim:
        """Take the next job, which must be there."""
        claim = self.claims.claim({MODEL: REVISION})
        assert claim is not None
        self._texts[claim.record.job_id] = []
        return claim

    def say(self, claim: Claim, *texts: str, used_ms: int = 100) -> None:
        """Commit tokens with these texts, in one event."""
        said = self._texts[claim.record.job_id]
        ids = tuple(range(len(said), len(said) + len(texts)))
        event = TokenEvent(len(said), ids, texts, logprobs=_logprobs(claim, len(said), len(texts)))
        [answer] = self._writer.append([Append(claim.record.job_id, claim.nonce, event, used_ms)])
        assert not answer.fenced
        said.extend(texts)

    def restart(self, claim: Claim) -> None:
        """Begin the job again from nothing."""
        self.claims.restart(claim.record.job_id, claim.nonce)
        self._texts[claim.record.job_id] = []

    def end(
        self,
        claim: Claim,
        status: JobStatus = JobStatus.COMPLETED,
        *,
        tail: str = "",
        finish_reason: str = "stop",
        error: tuple[str, str] | None = None,
    ) -> None:
        """End the job with what was said, and the tail."""
        said = self._texts[claim.record.job_id]
        choice = ChoiceResult(
            "".join(said) + tail,
            tuple(range(len(said))),
            finish_reason,
            _logprobs(claim, 0, len(said)),
        )
        error_type, error_message = error or (None, None)
        outcome = Outcome(
            status=status,
            choices=(choice,) if said else (),
            tails=(tail,) if said else (),
            prompt_tokens=12,
            timings=EngineTimings(0.25, 1.75, batch_size=4, cached_tokens=3),
            error_type=error_type,
            error_message=error_message,
        )
        assert self.claims.finish(claim.record.job_id, claim.nonce, outcome, 500) is None

    def run(self, *texts: str, tail: str = "") -> str:
        """Claim a job, commit each text as an event of its own, and end it; the job's id."""
        claim = self.claim()
        for text in texts:
            self.say(claim, text)
        self.end(claim, tail=tail)
        return claim.record.job_id


def _logprobs(claim: Claim, start: int, count: int) -> tuple[TokenLogprobs, ...]:
    """Where they were asked for: of token n -n / 4, which is the likeliest one."""
    if claim.record.sampling.logprobs is None:
        return ()
    return tuple(TokenLogprobs(-n / 4, ((n, -n / 4),)) for n in range(start, start + count))


@dataclass(frozen=True)
class Frame:
    """One event of a stream."""

    eid: int | None
    data: dict[str, Any]

    @property
    def token(self) -> str:
        return str(self.data["token"])


class Stream:
    """The frames of one open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> Frame:
        """The next frame; StopAsyncIteration where the stream has ended."""
        eid = None
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                eid = int(value)
            elif name == "data":
                return Frame(eid, json.loads(value))
            elif line:
                self.comments.append(line)
        raise StopAsyncIteration

    async def comment(self) -> str:
        """The next comment or `retry` line; no event comes before it."""
        return await anext(line async for line in self._lines if line)

    async def rest(self) -> list[Frame]:
        """All frames to the end."""
        frames = []
        while True:
            try:
                frames.append(await self.next())
            except StopAsyncIteration:
                return frames


@asynccontextmanager
async def open_stream(
    http: httpx.AsyncClient, task_id: str, last_event_id: int | None = None, **options: Any
) -> AsyncIterator[Stream]:
    """Open a stream that must be there."""
    headers = dict(options.pop("headers", {}))
    if last_event_id is not None:
        headers["Last-Event-ID"] = str(last_event_id)
    async with http.stream("GET", f"/stream/{task_id}", headers=headers, **options) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)


async def submit(http: httpx.AsyncClient, prompt: str = "hello", **fields: Any) -> str:
    """Submit a job that must be accepted; its id."""
    response = await http.post("/generate", json={"prompt": prompt, **fields})
    assert response.status_code == 202, response.text
    return str(response.json()["task_id"])


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


def text_of(frames: Sequence[Frame]) -> str:
    """The tokens put together, as a client does."""
    return "".join(frame.token for frame in frames)
