"""The parser and the assembler of streams: they have to notice what is wrong with a stream."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.stream import Frame, SseParser, StreamText


def frame(event_id: int | None, token: str, status: str = "processing", **more: Any) -> Frame:
    name = None if event_id is None else str(event_id)
    return Frame(name, {"status": status, "token": token, **more})


def stream_of(*frames: Frame) -> StreamText:
    stream = StreamText()
    for number, each in enumerate(frames):
        stream.apply(each, float(number))
    return stream


def as_bytes(frames: list[Frame]) -> bytes:
    lines = []
    for each in frames:
        head = "" if each.event_id is None else f"id: {each.event_id}\n"
        lines.append(f"{head}data: {json.dumps(each.data, ensure_ascii=False)}\n\n")
    return ("retry: 1500\n\n: heartbeat\n\n" + "".join(lines)).encode()


@given(st.lists(st.integers(1, 40)))
def test_frames_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    frames = [frame(None, ""), frame(1, "Aé"), frame(2, "\U0001f600"), frame(3, "", "completed")]
    body = as_bytes(frames)
    parser, got = SseParser(), []
    for size in cuts:
        got += parser.feed(body[:size])
        body = body[size:]
    got += parser.feed(body)
    assert got == frames
    assert parser.retry_s == 1.5


def test_carriage_returns_end_lines_too() -> None:
    parser = SseParser()
    assert parser.feed(b'id: 1\r\ndata: {"a":1}\r\n\r\n') == [Frame("1", {"a": 1})]


def test_an_event_that_was_cut_off_does_not_count() -> None:
    parser = SseParser()
    assert parser.feed(b'id: 7\ndata: {"token":"A"}\n') == []


def test_the_text_is_all_tokens_and_the_last_id_is_kept_over_frames_without_one() -> None:
    stream = stream_of(
        frame(None, ""), frame(2, "Once"), frame(None, ""), frame(5, " upon", "completed")
    )
    assert (stream.text, stream.last_event_id) == ("Once upon", "5")
    assert stream.end is not None
    assert stream.faults == []


def test_a_snapshot_replaces_the_text_and_may_begin_the_ids_again() -> None:
    stream = stream_of(frame(9, "stale"), frame(2, "fresh", snapshot=True), frame(3, "er"))
    assert (stream.text, stream.faults, stream.num_snapshots) == ("fresher", [], 1)


def test_an_empty_snapshot_takes_everything_back() -> None:
    assert stream_of(frame(1, "stale"), frame(2, "", snapshot=True)).text == ""


def test_an_event_that_comes_again_is_a_fault() -> None:
    stream = stream_of(frame(1, "A"), frame(2, "B"), frame(2, "B"))
    assert stream.faults == ["event 2 came after event 2"]


def test_an_event_after_the_end_is_a_fault_and_is_not_taken() -> None:
    stream = stream_of(frame(1, "A", "completed"), frame(2, "B"))
    assert len(stream.faults) == 1
    assert stream.text == "A"


def test_text_that_could_not_be_resumed_after_is_a_fault() -> None:
    assert stream_of(frame(None, "A")).faults != []


def test_an_end_without_an_id_is_a_fault() -> None:
    assert stream_of(frame(None, "", "failed")).faults == ["the last event has no id"]


def test_arrivals_are_the_frames_with_text() -> None:
    stream = stream_of(frame(1, "AB"), frame(None, ""), frame(2, "C"))
    assert [(a.at_s, a.num_letters) for a in stream.arrivals] == [(0.0, 2), (2.0, 3)]
