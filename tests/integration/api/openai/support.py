"""A worker that says what the test says, in tokens of one byte, and OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from openai import AsyncOpenAI

from common import keys
from common.connection import SyncRedis
from common.event_stream import Append, EventWriter
from common.events import TokenEvent
from common.job_store import Claim
from common.prompt import PromptEncoder
from common.schemas import ChoiceResult, EngineTimings, JobStatus, Outcome, Prompt
from common.settings import Settings
from common.token_logprobs import TokenLogprobs
from tests.fakes import byte_tokenizer, fake_card
from tests.integration.api.support import ALICE, MODEL, HandWorker

CARD = fake_card(MODEL, context_length=1000)
ENCODER = PromptEncoder(CARD, byte_tokenizer())
TIMINGS = EngineTimings(prefill_s=0.045, decode_s=0.1235, batch_size=2, cached_tokens=3)
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]


def ids_of(text: str) -> tuple[int, ...]:
    """The tokens of a text: one for each byte."""
    return ENCODER.encode(Prompt(text=text, raw=True))


class TextWorker(HandWorker):
    """Generates texts, for any of a job's choices."""

    def __init__(self, client: SyncRedis, settings: Settings) -> None:
        super().__init__(client, settings)
        self._client = client
        self._events = EventWriter(client)
        self._said: dict[str, list[str]] = {}

    async def next(self) -> Claim:
        """The next job, once it is there."""
        async with asyncio.timeout(20):
            while True:
                claim = self.claims.claim({MODEL: "r1:float32"})
                if claim is not None:
                    # One that was handed over goes on where it was.
                    self._said.setdefault(claim.record.job_id, [""] * claim.record.sampling.n)
                    return claim
                await asyncio.sleep(0.005)

    def tell(self, claim: Claim, text: str, choice: int = 0) -> None:
        """Commit a text's tokens, in one event."""
        said = self._said[claim.record.job_id]
        position = len(said[choice].encode())
        ids, texts = ids_of(text), _texts_of(text)
        event = TokenEvent(position, ids, texts, choice, logprobs_of(claim, ids))
        [answer] = self._events.append([Append(claim.record.job_id, claim.nonce, event, 100)])
        assert not answer.fenced
        said[choice] += text

    def tell_half_a_character(self, claim: Claim) -> None:
        """Commit a token that has no text yet."""
        event = TokenEvent(0, ids_of("é")[:1], ("",))
        self._events.append([Append(claim.record.job_id, claim.nonce, event, 100)])

    def hand_over(self, claim: Claim) -> None:
        """Give the job back, as a worker does that stops."""
        assert self.claims.release(claim.record.job_id, claim.nonce) == "requeued"

    def is_cancelled(self, claim: Claim) -> bool:
        """Whether the job's owner does not want it any more."""
        record = self._client.hgetall(keys.job(claim.record.job_id))
        return "cancel" in record or record["status"] == JobStatus.CANCELLED

    def begin_again(self, claim: Claim) -> None:
        """Begin the job again from nothing."""
        self.claims.restart(claim.record.job_id, claim.nonce)
        self._said[claim.record.job_id] = [""] * claim.record.sampling.n

    def finish(
        self,
        claim: Claim,
        *tails: str,
        status: JobStatus = JobStatus.COMPLETED,
        finish_reasons: Sequence[str] = (),
        error: tuple[str, str] | None = None,
    ) -> None:
        """End the job with what was said, and a tail for each choice."""
        sampling, said = claim.record.sampling, self._said[claim.record.job_id]
        tails = tails or ("",) * sampling.n
        reasons = finish_reasons or ("stop",) * sampling.n
        choices = tuple(
            ChoiceResult(
                text + tail, ids_of_any(text), reason, logprobs_of(claim, ids_of_any(text))
            )
            for text, tail, reason in zip(said, tails, reasons, strict=True)
        )
        prompt_ids = claim.record.prompt_ids or ()
        error_type, error_message = error or (None, None)
        outcome = Outcome(
            status=status,
            choices=choices,
            tails=tails,
            prompt_tokens=len(prompt_ids),
            timings=TIMINGS,
            error_type=error_type,
            error_message=error_message,
            prompt_logprobs=_prompt_logprobs(claim, prompt_ids),
        )
        assert self.claims.finish(claim.record.job_id, claim.nonce, outcome, 500) is None

    def fail(self, claim: Claim, error_type: str, message: str, param: str | None = None) -> None:
        """End the job without an answer."""
        self.claims.finish(
            claim.record.job_id,
            claim.nonce,
            Outcome(
                JobStatus.FAILED,
                error_type=error_type,
                error_message=message,
                error_param=param,
            ),
            0,
        )

    async def answer(self, *texts: str, **options: Any) -> Claim:
        """Take the next job and answer it, a text for each choice."""
        claim = await self.next()
        for choice, text in enumerate(texts):
            if text:
                self.tell(claim, text, choice)
        self.finish(claim, **options)
        return claim


def ids_of_any(text: str) -> tuple[int, ...]:
    """The tokens of a text, which may be empty."""
    return ids_of(text) if text else ()


def _texts_of(text: str) -> tuple[str, ...]:
    """For each byte the character that it completes, as a detokenizer tells them."""
    return tuple(part for char in text for part in (*[""] * (len(char.encode()) - 1), char))


def logprobs_of(claim: Claim, ids: Sequence[int]) -> tuple[TokenLogprobs, ...]:
    """Where they were asked for: -id / 256 of each token; tokens 0, 1, ... have -1, -2, ..."""
    count = claim.record.sampling.logprobs
    return () if count is None else tuple(_logprob(i, count) for i in ids)


def _logprob(token_id: int, count: int) -> TokenLogprobs:
    return TokenLogprobs(-token_id / 256, tuple((i, -1.0 - i) for i in range(count)))


def _prompt_logprobs(claim: Claim, ids: Sequence[int]) -> tuple[TokenLogprobs | None, ...]:
    count = claim.record.sampling.prompt_logprobs
    return () if count is None else (None, *(_logprob(i, count) for i in ids[1:]))


def openai_client(url: str, api_key: str = ALICE, **options: Any) -> AsyncOpenAI:
    """OpenAI's client as it is, but that it does not try again."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, **{"max_retries": 0} | options)
