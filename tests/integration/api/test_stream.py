from __future__ import annotations

import asyncio

import httpx
import pytest

from common import keys
from common.connection import SyncRedis
from common.schemas import JobStatus
from tests.integration.api.conftest import LiveGateway
from tests.integration.api.support import HandWorker, eventually, open_stream, submit, text_of

TOKENS = ("One", " two", " three", " four")


async def test_a_watcher_gets_every_token_as_it_is_committed(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http, max_tokens=9)
    async with open_stream(live_http, task_id) as stream:
        first = await stream.next()
        assert (first.eid, first.data["status"], first.data["queue_position"]) == (
            None,
            "queued",
            1,
        )
        claim = worker.claim()
        second = await stream.next()
        assert (second.eid, second.data["status"]) == (None, "processing")
        for eid, token in enumerate(TOKENS, start=1):
            worker.say(claim, token)
            frame = await stream.next()
            assert (frame.eid, frame.token) == (eid, token)
            assert frame.data["progress"] == {"completion_tokens": eid, "max_tokens": 9}
        worker.end(claim, tail="!")
        last = await stream.next()
        assert (last.eid, last.data["status"], last.token) == (5, "completed", "!")
        assert last.data["result"] == "One two three four!"
        assert last.data["metrics"]["completion_tokens"] == 4
        assert await stream.rest() == []


async def test_a_stream_has_the_headers_and_the_retry_time_that_event_source_needs(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run("a")
    async with open_stream(live_http, task_id) as stream:
        await stream.rest()
        assert stream.comments == ["retry: 2000"]
        headers = stream.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"
        assert "content-length" not in headers


async def test_a_late_watcher_gets_the_whole_text(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS, tail=".")
    async with open_stream(live_http, task_id) as stream:
        frames = await stream.rest()
    assert text_of(frames) == frames[-1].data["result"] == "One two three four."
    assert frames[-1].eid == 5
    assert not any("snapshot" in frame.data for frame in frames)


@pytest.mark.parametrize("has", range(5))
async def test_a_stream_is_resumed_after_any_event_without_loss_or_repetition(
    live_http: httpx.AsyncClient, worker: HandWorker, has: int
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS, tail=".")
    async with open_stream(live_http, task_id, last_event_id=has) as stream:
        frames = await stream.rest()
    assert "".join(TOKENS[:has]) + text_of(frames) == "One two three four."
    async with open_stream(live_http, task_id, params={"starting_after": has}) as stream:
        assert await stream.rest() == frames


async def test_a_running_stream_is_resumed_in_its_middle(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    for token in TOKENS[:2]:
        worker.say(claim, token)
    async with open_stream(live_http, task_id, last_event_id=1) as stream:
        assert (await stream.next()).data["status"] == "processing"
        assert (await stream.next()).token == " two"
        worker.say(claim, " three")
        assert (await stream.next()).token == " three"


async def test_a_restart_tells_the_watcher_to_replace_what_it_had(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "Wrong")
    async with open_stream(live_http, task_id) as stream:
        assert (await stream.next()).data["status"] == "processing"
        assert (await stream.next()).token == "Wrong"
        worker.restart(claim)
        restart = await stream.next()
        assert (restart.eid, restart.token) == (2, "")
        assert restart.data["restarted"] is restart.data["snapshot"] is True
        assert restart.data["progress"]["completion_tokens"] == 0
        worker.say(claim, "Right")
        frame = await stream.next()
        assert (frame.eid, frame.token) == (3, "Right")
        assert "snapshot" not in frame.data
        worker.end(claim)
        last = await stream.next()
    assert (last.data["result"], "snapshot" in last.data) == ("Right", False)


@pytest.mark.parametrize("has", [0, 1])
async def test_a_watcher_that_missed_a_restart_gets_one_text_that_holds(
    live_http: httpx.AsyncClient, worker: HandWorker, has: int
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "Wrong")
    worker.restart(claim)
    worker.say(claim, "Ri")
    worker.say(claim, "ght")
    worker.end(claim, tail="!")
    async with open_stream(live_http, task_id, last_event_id=has) as stream:
        frames = await stream.rest()
    assert frames[-1].data["result"] == "Right!"
    replacing = max(i for i, frame in enumerate(frames) if "snapshot" in frame.data)
    assert text_of(frames[replacing:]) == "Right!"


async def test_the_id_of_the_last_event_is_answered_by_204_which_stops_event_source(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS)
    response = await live_http.get(f"/stream/{task_id}", headers={"Last-Event-ID": "5"})
    assert response.status_code == 204


@pytest.mark.parametrize("has", [0, 2])
async def test_where_the_events_are_gone_one_frame_holds_the_whole_text(
    live_http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis, has: int
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS, tail=".")
    client.delete(keys.events(task_id))
    async with open_stream(live_http, task_id, last_event_id=has) as stream:
        [frame] = await stream.rest()
    assert (frame.eid, frame.data["status"], frame.data["snapshot"]) == (5, "completed", True)
    assert frame.token == frame.data["result"] == "One two three four."


async def test_a_cursor_past_the_end_is_answered_by_the_whole_text(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS)
    async with open_stream(live_http, task_id, last_event_id=77) as stream:
        [frame] = await stream.rest()
    assert (frame.eid, frame.data["snapshot"], frame.token) == (5, True, "One two three four")


async def test_a_cursor_past_a_running_stream_starts_it_over_and_says_so(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "One")
    async with open_stream(live_http, task_id, last_event_id=77) as stream:
        assert "snapshot" not in (await stream.next()).data
        frame = await stream.next()
        assert (frame.eid, frame.token, frame.data["snapshot"]) == (1, "One", True)
        worker.say(claim, " two")
        assert "snapshot" not in (await stream.next()).data


@pytest.mark.parametrize("cursor", ["-1", "1.5", "abc", "1" * 30, "²"])
async def test_a_cursor_that_is_no_event_id_is_400(http: httpx.AsyncClient, cursor: str) -> None:
    task_id = await submit(http)
    response = await http.get(f"/stream/{task_id}", params={"starting_after": cursor})
    assert response.status_code == 400
    assert response.json()["param"] == "starting_after"
    assert cursor in response.json()["error"]


async def test_a_wrong_cursor_beside_a_right_one_is_400(http: httpx.AsyncClient) -> None:
    task_id = await submit(http)
    params, headers = {"starting_after": "abc"}, {"Last-Event-ID": "1"}
    response = await http.get(f"/stream/{task_id}", params=params, headers=headers)
    assert response.status_code == 400
    assert response.json()["param"] == "starting_after"


async def test_where_the_header_is_empty_the_address_says_what_the_client_has(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    worker.run(*TOKENS, tail=".")
    options = {"params": {"starting_after": 2}, "headers": {"Last-Event-ID": ""}}
    async with open_stream(live_http, task_id, **options) as stream:
        assert text_of(await stream.rest()) == "".join(TOKENS[2:]) + "."


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.EXPIRED])
async def test_the_last_frame_of_a_job_that_went_wrong_says_why_and_what_there_is(
    live_http: httpx.AsyncClient, worker: HandWorker, status: JobStatus
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "half")
    worker.end(claim, status, tail=" a", error=("SomeError", "It went wrong."))
    async with open_stream(live_http, task_id) as stream:
        frames = await stream.rest()
    last = frames[-1].data
    assert (last["status"], last["error_type"]) == (status, "SomeError")
    assert last["error_message"] == last["message"] == "It went wrong."
    assert text_of(frames) == last["result"] == "half a"


async def test_a_cancel_while_the_job_waits_ends_its_stream(live_http: httpx.AsyncClient) -> None:
    task_id = await submit(live_http)
    async with open_stream(live_http, task_id) as stream:
        await stream.next()
        await live_http.delete(f"/tasks/{task_id}")
        [last] = await stream.rest()
    assert (last.data["status"], last.data["result"], last.eid) == ("cancelled", "", 1)


async def test_a_job_that_is_handed_back_says_that_it_waits_again(
    live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "One")
    async with open_stream(live_http, task_id) as stream:
        await stream.next()
        await stream.next()
        worker.claims.release(task_id, claim.nonce)
        assert (await stream.next()).data["status"] == "queued"


async def test_many_watchers_of_one_job_get_the_same(
    live: LiveGateway, live_http: httpx.AsyncClient, worker: HandWorker
) -> None:
    task_id = await submit(live_http)

    async def watch() -> str:
        async with open_stream(live_http, task_id) as stream:
            return text_of(await stream.rest())

    watching = [asyncio.create_task(watch()) for _ in range(5)]
    claim = worker.claim()
    for token in TOKENS:
        worker.say(claim, token)
    worker.end(claim)
    assert await asyncio.gather(*watching) == ["One two three four"] * 5


async def test_a_client_that_hangs_up_frees_its_watcher(
    live: LiveGateway, live_http: httpx.AsyncClient
) -> None:
    task_id = await submit(live_http)
    async with open_stream(live_http, task_id) as stream:
        await stream.next()
        assert live.gateway.watcher.num_watched == 1
    await eventually(lambda: live.gateway.watcher.num_watched == 0)


async def test_an_idle_stream_is_kept_open_by_comments(
    live_http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.job_stream.HEARTBEAT_S", 0.01)
    task_id = await submit(live_http)
    async with open_stream(live_http, task_id) as stream:
        await stream.next()
        assert await stream.comment() == ": heartbeat"
        assert await stream.comment() == ": heartbeat"


async def test_a_stream_ends_after_its_lifetime_and_the_client_comes_again(
    live_http: httpx.AsyncClient, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.job_stream.LIFETIME_S", 0)
    task_id = await submit(live_http)
    claim = worker.claim()
    worker.say(claim, "One")
    async with open_stream(live_http, task_id) as stream:
        frames = await stream.rest()
    assert [frame.data["status"] for frame in frames] == ["processing", "processing"]
