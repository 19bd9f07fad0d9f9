from __future__ import annotations

import pytest

from api import watch as watch_module
from api.watch import EndWait, HistoryGone, StatusChange, Update, Watch, WatchClosed
from common.errors import RedisUnavailableError
from common.events import EndEvent, StreamEvent, TokenEvent
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobStatus

QUEUED, PROCESSING = JobStatus.QUEUED, JobStatus.PROCESSING


def event(eid: int) -> StreamEvent:
    return StreamEvent(eid, TokenEvent(eid - 1, (eid,), (f"{eid} ",)))


class Stream:
    """What Redis has; `while_reading` is what happens between a read and its answer."""

    def __init__(self, length: int = 0, page: int = 100) -> None:
        self.length = length
        self.page = page
        self.is_away = False
        self.num_reads = 0
        self.while_reading = lambda: None

    async def read(self, job_id: str, after: int) -> list[StreamEvent]:
        self.num_reads += 1
        if self.is_away:
            raise RedisUnavailableError("away")
        events = [event(eid) for eid in range(after + 1, self.length + 1)][: self.page]
        self.while_reading()
        return events


def make_watch(stream: Stream, after: int = 0, last_eid: int | None = None) -> Watch:
    record = JobRecord(
        job_id="j",
        status=PROCESSING,
        key_id="k",
        model="m",
        job_class="normal",
        sampling=SamplingSpec(max_tokens=9, time_limit_s=9, seed=1),
        stream_token="t",
        request_id="r",
        created_ms=0,
        attempts=1,
        last_eid=stream.length if last_eid is None else last_eid,
        completion_tokens=0,
        used_ms=0,
    )
    return Watch(record, after, stream.read)


def eids(updates: list[Update]) -> list[int]:
    return [update.eid for update in updates if isinstance(update, StreamEvent)]


async def test_it_starts_by_reading_what_the_client_lacks() -> None:
    watch = make_watch(Stream(5), after=2)
    assert eids(await watch.take(0)) == [3, 4, 5]


async def test_the_next_event_is_delivered_without_a_read() -> None:
    stream = Stream(1)
    watch = make_watch(stream)
    await watch.take(0)
    watch.offer(event(2))
    watch.offer(event(3))
    assert eids(await watch.take(0)) == [2, 3]
    assert stream.num_reads == 1


async def test_an_event_that_is_called_out_twice_is_delivered_once() -> None:
    watch = make_watch(Stream(1))
    await watch.take(0)
    for eid in (2, 2, 1):
        watch.offer(event(eid))
    assert eids(await watch.take(0)) == [2]
    assert await watch.take(0) == []


async def test_a_gap_makes_it_read() -> None:
    stream = Stream(1)
    watch = make_watch(stream)
    await watch.take(0)
    watch.offer(event(2))
    stream.length = 4
    watch.offer(event(4))
    assert eids(await watch.take(0)) == [2]
    assert eids(await watch.take(0)) == [3, 4]


async def test_an_event_that_comes_between_a_read_and_its_answer_is_not_lost() -> None:
    stream = Stream(2)
    watch = make_watch(stream)

    def commit() -> None:
        stream.length = 3
        stream.while_reading = lambda: None
        watch.offer(event(3))

    stream.while_reading = commit
    assert eids(await watch.take(0)) == [1, 2]
    assert eids(await watch.take(0)) == [3]


async def test_an_event_that_comes_while_nothing_is_found_does_not_look_like_a_gap() -> None:
    stream = Stream(0)
    watch = make_watch(stream)

    def commit() -> None:
        stream.length = 1
        stream.while_reading = lambda: None
        watch.offer(event(1))

    stream.while_reading = commit
    assert await watch.take(0) == []
    assert eids(await watch.take(0)) == [1]


async def test_a_long_history_is_read_page_by_page() -> None:
    watch = make_watch(Stream(5, page=2))
    assert [eids(await watch.take(0)) for _ in range(3)] == [[1, 2], [3, 4], [5]]


async def test_a_look_at_the_record_finds_what_nobody_called_out() -> None:
    stream = Stream(1)
    watch = make_watch(stream)
    await watch.take(0)
    stream.length = 2
    watch.observe(PROCESSING, 2)
    assert eids(await watch.take(0)) == [2]


async def test_a_status_is_told_when_it_changes_and_only_then() -> None:
    watch = make_watch(Stream(1))
    await watch.take(0)
    watch.observe(PROCESSING, 1)
    watch.offer(StatusChange(PROCESSING))
    assert await watch.take(0) == []
    watch.offer(StatusChange(QUEUED))
    watch.observe(QUEUED, 1)
    watch.observe(PROCESSING, 1)
    assert await watch.take(0) == [StatusChange(QUEUED), StatusChange(PROCESSING)]


async def test_an_end_that_the_record_tells_is_left_to_its_event() -> None:
    watch = make_watch(Stream(1))
    await watch.take(0)
    watch.observe(JobStatus.COMPLETED, 1)
    assert await watch.take(0) == []


async def test_events_that_are_no_longer_kept_are_a_gap_in_history() -> None:
    watch = make_watch(Stream(0), last_eid=3)
    with pytest.raises(HistoryGone):
        await watch.take(0)


async def test_a_record_that_is_gone_ends_the_watch() -> None:
    watch = make_watch(Stream(0))
    await watch.take(0)
    watch.vanish()
    with pytest.raises(HistoryGone):
        await watch.take(30)


async def test_while_redis_is_away_it_waits_and_then_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "RETRY_S", 0)
    stream = Stream(2)
    stream.is_away = True
    watch = make_watch(stream)
    assert await watch.take(0) == []
    stream.is_away = False
    assert eids(await watch.take(0)) == [1, 2]


async def test_a_reader_that_is_too_slow_is_cut() -> None:
    watch = make_watch(Stream(0))
    await watch.take(0)
    for eid in range(1, watch_module.BUFFER_LIMIT + 2):
        watch.offer(event(eid))
    with pytest.raises(WatchClosed):
        await watch.take(30)


async def test_a_reader_in_its_history_is_not_cut_for_what_comes_meanwhile() -> None:
    stream = Stream(4, page=2)
    watch = make_watch(stream)
    await watch.take(0)
    stream.length = 1000
    for eid in range(5, 1001):
        watch.offer(event(eid))
    assert eids(await watch.take(0)) == [3, 4]


async def test_closing_wakes_a_reader() -> None:
    watch = make_watch(Stream(0))
    await watch.take(0)
    watch.close()
    with pytest.raises(WatchClosed):
        await watch.take(30)


async def test_waiting_for_the_end_ends_with_the_end_and_not_with_a_token() -> None:
    wait = EndWait()
    wait.offer(event(1))
    wait.offer(StatusChange(PROCESSING))
    wait.observe(PROCESSING, 1)
    assert not wait.has_ended
    wait.offer(StreamEvent(2, EndEvent(JobStatus.COMPLETED)))
    assert await wait.wait()


async def test_waiting_for_the_end_ends_where_the_record_tells_it() -> None:
    wait = EndWait()
    wait.observe(JobStatus.FAILED, 1)
    assert await wait.wait()


@pytest.mark.parametrize("stop", ["close", "vanish"])
async def test_a_wait_that_is_broken_off_has_not_seen_the_end(stop: str) -> None:
    wait = EndWait()
    getattr(wait, stop)()
    assert not await wait.wait()
