from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import APIError, AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from common.schemas import JobStatus
from tests.integration.api.openai.support import HELLO, MODEL, TextWorker, ids_of
from tests.integration.api.support import eventually

CHAT = "/v1/chat/completions"


class Events:
    """The events of one open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> Any:
        """The data of the next one; None for `[DONE]`."""
        async for line in self._lines:
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                return None if data == "[DONE]" else json.loads(data)
            if line:
                self.comments.append(line)
        raise StopAsyncIteration

    async def rest(self) -> list[Any]:
        """All that come still; the last one is None where the stream has ended well."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except StopAsyncIteration:
                return events


@asynccontextmanager
async def streaming(
    http: httpx.AsyncClient, path: str = CHAT, **fields: Any
) -> AsyncIterator[Events]:
    body = {"model": MODEL, "stream": True, **fields}
    async with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)


@asynccontextmanager
async def asked(
    http: httpx.AsyncClient, worker: TextWorker, *texts: str, path: str = CHAT, **fields: Any
) -> AsyncIterator[tuple[Events, Any]]:
    """A stream that has begun with these texts, and the claim of its job."""
    async with asyncio.TaskGroup() as group:
        claiming = group.create_task(_begin(worker, texts))
        async with streaming(http, path, **fields) as events:
            yield events, await claiming


async def _begin(worker: TextWorker, texts: tuple[str, ...]) -> Any:
    claim = await worker.next()
    for text in texts:
        worker.tell(claim, text)
    return claim


async def test_the_role_comes_first_then_deltas_the_finish_reason_and_done(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "Hel", messages=HELLO) as (events, claim):
        first = await events.next()
        assert first["choices"] == [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        ]
        second = await events.next()
        assert second["choices"][0]["delta"] == {"content": "Hel"}
        worker.tell(claim, "lo")
        third = await events.next()
        assert third["choices"][0]["delta"] == {"content": "lo"}
        worker.finish(claim, "!", finish_reasons=["length"])
        *rest, done = await events.rest()
    assert [chunk["choices"][0]["delta"] for chunk in rest] == [{"content": "!"}, {}]
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert done is None
    for chunk in (first, second, third, *rest):
        ChatCompletionChunk.model_validate(chunk)
        assert chunk["id"] == f"chatcmpl-{claim.record.job_id}"
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["created"] == claim.record.created_ms // 1000
        assert chunk["system_fingerprint"] == first["system_fingerprint"]
        assert "usage" not in chunk


async def test_the_headers_are_those_of_an_event_stream(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "a", messages=HELLO) as (events, claim):
        headers = events.response.headers
        worker.finish(claim)
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"]
    assert headers["x-ratelimit-limit-requests"] == "1000"


async def test_usage_comes_last_where_it_was_asked_for_and_is_null_before(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    options = {"include_usage": True}
    async with asked(live_http, worker, "abc", messages=HELLO, stream_options=options) as (
        events,
        claim,
    ):
        worker.finish(claim)
        *chunks, usage, _ = await events.rest()
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["performance"]["batch_size"] == 2


async def test_choices_are_streamed_side_by_side(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "one", messages=HELLO, n=2) as (events, claim):
        worker.tell(claim, "two", 1)
        worker.finish(claim, finish_reasons=["stop", "length"])
        *chunks, _ = await events.rest()
    texts, reasons, roles = ["", ""], {}, []
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        roles += [choice["index"]] if "role" in choice["delta"] else []
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    assert texts == ["one", "two"]
    assert roles == [0, 1]
    assert reasons == {0: "stop", 1: "length"}


async def test_the_sdk_puts_a_stream_together(openai: AsyncOpenAI, worker: TextWorker) -> None:
    async def read() -> str:
        text = ""
        stream = await openai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    reading = asyncio.create_task(read())
    claim = await worker.next()
    for word in ("Once ", "upon ", "a "):
        worker.tell(claim, word)
    worker.finish(claim, "time.")
    assert await reading == "Once upon a time."


async def test_logprobs_come_with_their_tokens(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "ab", messages=HELLO, logprobs=True) as (events, claim):
        worker.tell(claim, "c")
        worker.finish(claim)
        *chunks, _ = await events.rest()
    logprobs = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    tokens = [each["token"] for part in logprobs for each in part["content"]]
    assert tokens == ["a", "b", "c"]


async def test_completions_are_streamed_for_all_prompts(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    path = "/v1/completions"
    async with asked(live_http, worker, "x", path=path, prompt=["ab", "cd"], echo=True) as (
        events,
        first,
    ):
        second = await worker.next()
        worker.tell(second, "y")
        worker.finish(second)
        worker.finish(first)
        *chunks, done = await events.rest()
    assert done is None
    texts = ["", ""]
    for chunk in chunks:
        assert chunk["object"] == "text_completion"
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == ["abx", "cdy"]
    assert [c["choices"][0]["finish_reason"] for c in chunks].count("stop") == 2


async def test_streamed_completions_have_the_places_of_their_tokens(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "ab", path="/v1/completions", prompt="p", logprobs=0) as (
        events,
        claim,
    ):
        await events.next()
        worker.tell(claim, "c")
        chunk = await events.next()
        worker.finish(claim)
        await events.rest()
    logprobs = chunk["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["c"]
    assert logprobs["text_offset"] == [2]
    assert logprobs["top_logprobs"] == [{"c": -ids_of("c")[0] / 256}]


async def test_a_stream_goes_on_where_another_worker_takes_its_job_up(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "Once ", messages=HELLO) as (events, claim):
        worker.hand_over(claim)
        again = await worker.next()
        assert again.record.job_id == claim.record.job_id
        worker.tell(again, "more")
        worker.finish(again)
        *chunks, done = await events.rest()
    assert done is None
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "Once more"


async def test_a_job_that_begins_again_ends_the_stream_with_an_error_that_says_so(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    stream_of = openai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    asking = asyncio.create_task(stream_of)
    claim = await worker.next()
    worker.tell(claim, "Once ")
    stream = await asking
    await anext(stream)
    await anext(stream)
    worker.begin_again(claim)
    with pytest.raises(APIError, match="begin again from nothing") as raised:
        await anext(stream)
    assert raised.value.code == "restarted"
    await eventually(lambda: worker.is_cancelled(claim))


async def test_a_job_that_begins_again_before_anything_was_sent_is_not_noticed(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = {"model": MODEL, "messages": HELLO, "stream": True}
    reading = asyncio.create_task(live_http.post(CHAT, json=body))
    claim = await worker.next()
    worker.tell_half_a_character(claim)
    worker.begin_again(claim)
    worker.tell(claim, "New")
    worker.finish(claim)
    response = await reading
    assert "restarted" not in response.text
    assert '"content":"New"' in response.text
    assert response.text.endswith("data: [DONE]\n\n")


async def test_a_job_that_fails_in_the_middle_ends_the_stream_with_an_error(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "Once ", messages=HELLO) as (events, claim):
        await events.next()
        worker.fail(claim, "EngineError", "The engine could not run it.")
        *_, last = await events.rest()
    error = last["error"]
    assert error["message"] == "The engine could not run it."
    assert error["type"] == "server_error"
    assert error["code"] == "task_failed"
    assert error["request_id"] == events.response.headers["x-request-id"]


async def test_a_job_that_fails_before_anything_was_sent_has_a_status(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = {"model": MODEL, "messages": HELLO, "stream": True}
    asking = asyncio.create_task(live_http.post(CHAT, json=body))
    claim = await worker.next()
    worker.fail(claim, "EngineError", "The engine could not run it.")
    response = await asking
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "task_failed"


async def test_a_stream_that_runs_out_of_time_says_so(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with asked(live_http, worker, "Once ", messages=HELLO) as (events, claim):
        worker.finish(claim, status=JobStatus.EXPIRED, finish_reasons=["timeout"])
        *_, last = await events.rest()
    assert last["error"]["type"] == "timeout_error"


async def test_silence_is_filled_with_heartbeats(
    live_http: httpx.AsyncClient, worker: TextWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.openai.serving.CHECK_S", 0.01)
    monkeypatch.setattr("api.openai.serving.HEARTBEAT_S", 0.02)
    async with streaming(live_http, messages=HELLO) as events:
        async with asyncio.timeout(20):
            line = await anext(line async for line in events.response.aiter_lines() if line)
        assert line == ": heartbeat"


async def test_a_client_that_reads_slowly_loses_nothing(
    live_http: httpx.AsyncClient, worker: TextWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every watch is cut at its second update, and opened again.
    monkeypatch.setattr("api.watch.BUFFER_LIMIT", 1)
    async with asked(live_http, worker, "! ", messages=HELLO) as (events, claim):
        for number in range(30):
            worker.tell(claim, f"{number} ")
        worker.finish(claim)
        *chunks, done = await events.rest()
    assert done is None
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "! " + "".join(f"{number} " for number in range(30))
