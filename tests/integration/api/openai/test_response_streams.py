from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from common import keys
from common.connection import SyncRedis
from common.schemas import JobStatus
from common.settings import Settings
from tests.integration.api.conftest import StartLive
from tests.integration.api.openai.responses_support import (
    CALL,
    RESPONSES,
    TOOL,
    all_events,
    ask_in_background,
    get,
    kinds,
    numbers,
    streaming,
    text_of,
    watching,
)
from tests.integration.api.openai.support import MODEL, TextWorker
from tests.integration.api.support import eventually

WORDS = ["Once ", "upon ", "a ", "time", "."]
TALKING = ["output_item.added", "content_part.added"]
TALKED = ["output_text.done", "content_part.done", "output_item.done"]


@pytest.fixture
async def elsewhere(start_live: StartLive, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's client of another gateway."""
    async with start_live(settings).client() as http:
        yield http


async def run(worker: TextWorker, *texts: str, tail: str = "", **options: Any) -> Any:
    """Run the next job, each text in an event of its own, by two workers."""
    claim = await worker.next()
    for i, text in enumerate(texts):
        if i == len(texts) // 2:
            worker.hand_over(claim)
            claim = await worker.next()
        worker.tell(claim, text)
    worker.finish(claim, tail, **options)
    return claim


async def test_a_background_stream_tells_every_event_once_and_in_order(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with streaming(live_http, background=True) as events:
        assert kinds(await events.take(2)) == ["created", "queued"]
        claim = await worker.next()
        assert kinds(await events.take(1)) == ["in_progress"]
        worker.tell(claim, "Hel")
        *opening, delta = await events.take(3)
        assert (kinds(opening), delta["delta"]) == (TALKING, "Hel")
        worker.tell(claim, "lo")
        assert (await events.next())["delta"] == "lo"
        worker.finish(claim, "!")
        rest = await events.rest()
    assert kinds(rest) == ["output_text.delta", *TALKED, "completed"]
    assert rest[1]["text"] == "Hello!"
    assert numbers([*opening, delta]) == [3, 4, 5]
    assert numbers(rest) == [7, 8, 9, 10, 11]
    body = rest[-1]["response"]
    assert rest[-2]["item"] == body["output"][0]
    assert body == await get(live_http, body["id"])


async def test_the_stream_of_who_waits_begins_with_the_first_token(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    running = asyncio.create_task(run(worker, *WORDS))
    async with streaming(live_http) as events:
        told = await events.rest()
    await running
    deltas = ["output_text.delta"] * len(WORDS)
    assert kinds(told) == ["created", "in_progress", *TALKING, *deltas, *TALKED, "completed"]
    assert numbers(told) == list(range(len(told)))
    assert text_of(told) == "".join(WORDS)
    assert told[0]["response"]["status"] == "in_progress"
    # What was waited for can be read again, too.
    assert await all_events(live_http, told[0]["response"]["id"]) == told


@pytest.mark.parametrize("is_keyed", [False, True])
async def test_a_failure_before_the_first_token_has_a_status_and_after_it_is_an_event(
    live_http: httpx.AsyncClient, worker: TextWorker, is_keyed: bool
) -> None:
    body = {"model": MODEL, "input": "a", "stream": True}
    headers = {"Idempotency-Key": "k"} if is_keyed else {}
    asking = asyncio.create_task(live_http.post(RESPONSES, json=body, headers=headers))
    worker.fail(await worker.next(), "EngineError", "it broke")
    assert (await asking).status_code == 500

    async def begin() -> Any:
        claim = await worker.next()
        worker.tell(claim, "Hi")
        return claim

    beginning = asyncio.create_task(begin())
    async with streaming(live_http) as events:
        await events.take(5)
        worker.fail(await beginning, "EngineError", "it broke")
        told = await events.rest()
    assert kinds(told)[-2:] == ["output_item.done", "failed"]
    assert told[-1]["response"]["error"]["message"] == "it broke"
    assert told[-2]["item"]["status"] == "incomplete"


async def test_hanging_up_on_a_stream_cancels_it_unless_it_is_in_the_background(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with streaming(live_http, background=True) as events:
        kept = await worker.next()
        worker.tell(kept, "Hi")
        await events.take(4)

    async def begin() -> Any:
        claim = await worker.next()
        worker.tell(claim, "Hi")
        return claim

    beginning = asyncio.create_task(begin())
    async with streaming(live_http) as events:
        await events.take(4)
        left = await beginning
    await eventually(lambda: worker.is_cancelled(left))
    assert not worker.is_cancelled(kept)


SCRIPTS: dict[str, dict[str, Any]] = {
    "text": {"texts": WORDS},
    "text with a tail": {"texts": WORDS, "tail": " The end."},
    "no text": {"texts": []},
    "cut off": {"texts": WORDS, "finish_reasons": ["length"]},
    "characters in several tokens": {"texts": ["é", "中文", "x"]},
    "a call": {"texts": [CALL[:12], CALL[12:40], CALL[40:]], "tools": [TOOL]},
    "text and calls": {
        "texts": ["Let me ", "see.", CALL[:25], CALL[25:], "\n", CALL, " Done", "."],
        "tools": [TOOL],
    },
    "half a call": {"texts": ["Well. ", CALL[:50]], "tools": [TOOL]},
    "logprobs": {"texts": ["ab", "c"], "top_logprobs": 2},
    "logprobs, to a stop": {"texts": ["ab", "c"], "tail": "d", "top_logprobs": 2, "stop": ["x"]},
    "failed": {"texts": WORDS, "status": JobStatus.FAILED, "error": ("EngineError", "it broke")},
    "cancelled": {
        "texts": WORDS,
        "status": JobStatus.CANCELLED,
        "finish_reasons": ["cancelled"],
    },
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_a_stream_taken_up_anywhere_goes_on_exactly_where_it_was(
    live_http: httpx.AsyncClient,
    elsewhere: httpx.AsyncClient,
    worker: TextWorker,
    script: dict[str, Any],
) -> None:
    options = dict(script)
    texts = options.pop("texts")
    asked = {
        name: options.pop(name) for name in ("tools", "top_logprobs", "stop") if name in options
    }
    response_id = await ask_in_background(live_http, **asked)
    async with watching(live_http, response_id) as events:
        await run(worker, *texts, **options)
        live = await events.rest()
    assert numbers(live) == list(range(len(live)))
    # Read again, at another gateway, from every place.
    for after in [None, *numbers(live)]:
        expected = [e for e in live if after is None or e["sequence_number"] > after]
        assert await all_events(elsewhere, response_id, after) == expected
    body = await get(elsewhere, response_id)
    assert live[-1]["response"] == body
    done = [e["item"] for e in live if e["type"] == "response.output_item.done"]
    assert done == body["output"]


async def test_a_dropped_stream_is_taken_up_while_it_goes_on(
    live_http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, worker: TextWorker
) -> None:
    seen: list[dict[str, Any]] = []
    async with streaming(live_http, background=True) as events:
        claim = await worker.next()
        for word in WORDS[:2]:
            worker.tell(claim, word)
        seen += await events.take(6)
    response_id = seen[0]["response"]["id"]
    worker.tell(claim, WORDS[2])
    async with watching(elsewhere, response_id, numbers(seen)[-1]) as events:
        seen += await events.take(2)
        worker.tell(claim, WORDS[3])
        seen += await events.take(1)
    async with watching(live_http, response_id, numbers(seen)[-1]) as events:
        worker.finish(claim, WORDS[4])
        seen += await events.rest()
    assert numbers(seen) == list(range(len(seen)))
    assert text_of(seen) == "".join(WORDS)
    assert seen == await all_events(live_http, response_id)


async def test_calls_are_told_while_they_are_written(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async with streaming(live_http, background=True, tools=[TOOL]) as events:
        claim = await worker.next()
        worker.tell(claim, CALL[:52])  # the name, and a part of the arguments
        told = await events.take(5)
        assert kinds(told)[3:] == ["output_item.added", "function_call_arguments.delta"]
        assert told[3]["item"]["name"] == "get_weather"
        worker.tell(claim, CALL[52:])
        worker.finish(claim)
        told += await events.rest()
    deltas = [e["delta"] for e in told if e["type"] == "response.function_call_arguments.delta"]
    assert len(deltas) == 2
    done = told[-3]
    assert done["type"] == "response.function_call_arguments.done"
    assert done["arguments"] == "".join(deltas) == '{"city": "Paris"}'
    assert told[-1]["response"]["output"] == [told[-2]["item"]]


async def test_a_cancelled_response_ends_its_stream_with_its_status(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    async with watching(live_http, response_id) as events:
        await events.take(2)
        await live_http.post(f"{RESPONSES}/{response_id}/cancel")
        told = await events.rest()
    assert kinds(told) == ["in_progress", "incomplete"]
    assert told[-1]["response"]["status"] == "cancelled"


async def test_a_restart_ends_the_streams_of_those_that_have_something_of_the_answer(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    async with watching(live_http, response_id) as events:
        claim = await worker.next()
        worker.tell(claim, "Hal")
        await events.take(6)
        worker.begin_again(claim)
        [error] = await events.rest()
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "restarted", 6)
    worker.tell(claim, "Hello")
    worker.finish(claim)
    # Who goes on after it gets the new answer, and so does who comes only now.
    for after in (None, 1, 2, 6):
        told = await all_events(live_http, response_id, after)
        assert text_of(told) == "Hello"
        of_items = [n for n in numbers(told) if n > 2]
        assert of_items == list(range(7, 14))
        assert told[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    for after in (3, 4, 5):
        told = await all_events(live_http, response_id, after)
        assert told[-1] == error
        assert numbers(told) == list(range(after + 1, 7))


async def test_a_restart_of_an_answer_that_is_waited_for_ends_it(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    async def begin() -> Any:
        claim = await worker.next()
        worker.tell(claim, "Hal")
        return claim

    beginning = asyncio.create_task(begin())
    async with streaming(live_http) as events:
        await events.take(5)
        claim = await beginning
        worker.begin_again(claim)
        [error] = await events.rest()
    assert error["code"] == "restarted"
    await eventually(lambda: worker.is_cancelled(claim))


async def test_after_its_events_are_dropped_an_answer_comes_as_a_whole(
    live_http: httpx.AsyncClient, worker: TextWorker, client: SyncRedis
) -> None:
    response_id = await ask_in_background(live_http)
    await run(worker, *WORDS)
    before = await all_events(live_http, response_id)
    client.delete(keys.events(response_id.removeprefix("resp_")))
    told = await all_events(live_http, response_id)
    opening = ["created", "queued", "in_progress"]
    assert kinds(told) == [*opening, *TALKING, "output_text.delta", *TALKED, "completed"]
    assert text_of(told) == "".join(WORDS)
    assert numbers(told) == list(range(len(told)))
    # Nobody knows which deltas this client has.
    [last] = await all_events(live_http, response_id, 6)
    assert last["response"] == before[-1]["response"]
    assert last["sequence_number"] > 6


async def test_what_breaks_a_stream_off_has_the_number_of_the_event_before_it(
    live_http: httpx.AsyncClient, worker: TextWorker, client: SyncRedis
) -> None:
    response_id = await ask_in_background(live_http)
    async with watching(live_http, response_id) as events:
        await events.take(2)
        client.flushdb()
        [error] = await events.rest()
    assert (error["type"], error["code"]) == ("error", "internal_error")
    assert error["sequence_number"] == 1


async def test_a_gateway_that_stops_ends_its_background_streams_and_another_goes_on(
    start_live: StartLive, settings: Settings, live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    stopping = start_live(settings)
    async with stopping.client() as http, streaming(http, background=True) as events:
        claim = await worker.next()
        worker.tell(claim, "Hel")
        seen = await events.take(6)
        await stopping.stop()
        assert await events.rest() == []
    async with watching(live_http, seen[0]["response"]["id"], 5) as events:
        worker.tell(claim, "lo")
        worker.finish(claim)
        seen += await events.rest()
    assert numbers(seen) == list(range(len(seen)))
    assert text_of(seen) == "Hello"


async def test_a_repeat_of_a_background_stream_is_the_same_stream(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    fields = {"model": MODEL, "input": "a", "stream": True, "background": True}
    headers = {"Idempotency-Key": "k"}
    running = asyncio.create_task(run(worker, *WORDS))
    first = await live_http.post(RESPONSES, json=fields, headers=headers)
    await running
    again = await live_http.post(RESPONSES, json=fields, headers=headers)
    assert again.text == first.text
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_after_the_last_event_there_is_nothing(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    await run(worker, *WORDS)
    last = (await all_events(live_http, response_id))[-1]["sequence_number"]
    assert await all_events(live_http, response_id, last) == []
    assert await all_events(live_http, response_id, last + 100) == []


async def test_without_a_worker_who_waits_is_sent_away_and_the_background_is_not(
    live_http: httpx.AsyncClient, client: SyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.waiting.NO_WORKER_S", 0.0)
    for fields in ({}, {"stream": True}):
        body = {"model": MODEL, "input": "a", **fields}
        answer = await live_http.post(RESPONSES, json=body)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_worker"
    async with streaming(live_http, background=True) as events:
        assert kinds(await events.take(2)) == ["created", "queued"]


async def test_who_waits_longer_than_the_limit_is_told(
    start_live: StartLive, make_settings: Callable[..., Settings], worker: TextWorker
) -> None:
    live = start_live(make_settings(wait_limit_s=1))
    async with live.client() as http:
        asking = asyncio.create_task(http.post(RESPONSES, json={"model": MODEL, "input": "a"}))
        claim = await worker.next()
        answer = await asking
    assert answer.status_code == 504
    await eventually(lambda: worker.is_cancelled(claim))


async def test_a_client_that_reads_slowly_gets_every_event_once(
    live_http: httpx.AsyncClient, worker: TextWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every watch is cut at its second update, and opened again.
    monkeypatch.setattr("api.watch.BUFFER_LIMIT", 1)
    async with streaming(live_http, background=True) as events:
        claim = await worker.next()
        for number in range(30):
            worker.tell(claim, f"{number} ")
        worker.finish(claim)
        told = await events.rest()
    assert numbers(told) == list(range(len(told)))
    assert text_of(told) == "".join(f"{number} " for number in range(30))


async def test_an_answer_of_many_pages_of_events_is_taken_up_in_the_middle(
    live_http: httpx.AsyncClient, worker: TextWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.event_stream.EventReader.after.__defaults__", (7,))
    response_id = await ask_in_background(live_http)
    words = [f"{number} " for number in range(30)]
    await run(worker, *words)
    told = await all_events(live_http, response_id)
    assert numbers(told) == list(range(len(told)))
    for after in (5, 20, 33):
        assert await all_events(live_http, response_id, after) == told[after + 1 :]
