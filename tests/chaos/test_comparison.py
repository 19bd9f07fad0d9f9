"""The comparison has to find every kind of loss: it is fed streams and results with such losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.comparison import (
    Difference,
    Outcome,
    compare,
    judge,
    longest_gap,
    percentile,
)
from tests.chaos.jobs import ChaosJob, WatcherPlan
from tests.chaos.store import put_together
from tests.chaos.stream import Frame, StreamText

TEXT = "ZwXUTlnYCL3mkcpWoGadtf"
IDS = tuple(range(len(TEXT)))
REFERENCE = Outcome("completed", TEXT, IDS, "length")
JOB = ChaosJob(0, "key", {}, (WatcherPlan(),), cancel_after_s=None)
CANCELLED_JOB = replace(JOB, cancel_after_s=1.0)


def stream_of(text: str, **end: Any) -> StreamText:
    """A stream that sends a text in frames of four letters, and an end that fits to it."""
    stream = StreamText()
    chunks = [text[i : i + 4] for i in range(0, len(text), 4)]
    for number, chunk in enumerate(chunks, 1):
        data = {"status": "processing", "token": chunk}
        stream.apply(Frame(str(number), data), float(number))
    data = {"status": "completed", "token": "", "result": text, **end}
    stream.apply(Frame(str(len(chunks) + 1), data), float(len(chunks) + 1))
    return stream


def test_a_faithful_job_is_good() -> None:
    assert judge(JOB, REFERENCE, REFERENCE, [stream_of(TEXT), stream_of(TEXT)]).is_good


@pytest.mark.parametrize(
    ("got", "difference"),
    [
        (TEXT[:8] + TEXT[12:], Difference(lost=4)),
        (TEXT[:-3], Difference(lost=3)),
        (TEXT[:12] + TEXT[8:], Difference(repeated=4)),
        (TEXT + TEXT[-1], Difference(repeated=1)),
        (TEXT[:5] + "00" + TEXT[7:], Difference(changed=2)),
        ("", Difference(lost=len(TEXT))),
    ],
)
def test_tokens_that_a_stream_lost_repeated_or_changed_are_counted(
    got: str, difference: Difference
) -> None:
    assert compare(TEXT, got) == difference
    verdict = judge(JOB, REFERENCE, REFERENCE, [stream_of(TEXT), stream_of(got)])
    assert verdict.tokens == difference
    assert verdict.broken != []  # its result is not the polled one either


def test_a_stream_whose_end_tells_the_right_result_is_still_measured_by_its_own_text() -> None:
    verdict = judge(JOB, REFERENCE, REFERENCE, [stream_of(TEXT[:-3], result=TEXT)])
    assert verdict.tokens == Difference(lost=3)
    assert verdict.broken == ["watcher 0: its text is not the polled one"]


def test_a_loss_that_stream_and_result_share_is_found_by_the_reference() -> None:
    wrong = replace(REFERENCE, text=TEXT[:-2], token_ids=IDS[:-2])
    verdict = judge(JOB, REFERENCE, wrong, [stream_of(TEXT[:-2])])
    # Two in the ids, two in the text, two in the stream.
    assert verdict.tokens == Difference(lost=6)
    assert verdict.broken == []


def test_token_ids_count_where_the_text_is_right() -> None:
    wrong = replace(REFERENCE, token_ids=(*IDS[:-1], 999))
    assert judge(JOB, REFERENCE, wrong, []).tokens == Difference(changed=1)


def test_a_stream_without_its_last_event_is_broken() -> None:
    stream = stream_of(TEXT)
    stream.end = None
    [reason] = judge(JOB, REFERENCE, REFERENCE, [stream]).broken
    assert reason.startswith("watcher 0: it has no last event")


def test_a_stream_that_ended_otherwise_than_the_job_is_broken() -> None:
    stream = stream_of(TEXT, status="cancelled")
    [reason] = judge(JOB, REFERENCE, REFERENCE, [stream]).broken
    assert reason == "watcher 0: its end is cancelled, the result's completed"


def test_what_the_assembler_found_breaks_the_stream() -> None:
    stream = stream_of(TEXT)
    stream.faults.append("event 2 came after event 2")
    assert not judge(JOB, REFERENCE, REFERENCE, [stream]).is_good


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome("error", error="WorkerLostError: lost"),
        Outcome("cancelled", TEXT[:4], IDS[:4], "cancelled"),
        replace(REFERENCE, finish_reason="stop"),
    ],
)
def test_a_job_that_did_not_end_as_it_should_is_lost(outcome: Outcome | None) -> None:
    verdict = judge(JOB, REFERENCE, outcome, [])
    assert verdict.lost is not None
    assert not verdict.is_good


def test_a_job_cancelled_on_purpose_is_good_as_far_as_it_came() -> None:
    cancelled = Outcome("cancelled", TEXT[:10], IDS[:10], "cancelled")
    stream = stream_of(TEXT[:10], status="cancelled")
    assert judge(CANCELLED_JOB, REFERENCE, cancelled, [stream]).is_good


def test_a_cancel_that_came_too_late_is_good() -> None:
    assert judge(CANCELLED_JOB, REFERENCE, REFERENCE, [stream_of(TEXT)]).is_good


def test_a_cancelled_job_with_a_hole_has_lost_tokens() -> None:
    holed = Outcome("cancelled", TEXT[:4] + TEXT[6:10], IDS[:4] + IDS[6:10], "cancelled")
    stream = stream_of(holed.text, status="cancelled")
    assert judge(CANCELLED_JOB, REFERENCE, holed, [stream]).tokens


def test_a_cancelled_job_whose_text_lacks_committed_tokens_has_lost_them() -> None:
    short = Outcome("cancelled", TEXT[:8], IDS[:10], "cancelled")
    stream = stream_of(TEXT[:8], status="cancelled")
    assert judge(CANCELLED_JOB, REFERENCE, short, [stream]).tokens == Difference(lost=4)


def test_the_longest_gap_is_between_two_frames_with_text() -> None:
    stream = StreamText()
    for at_s, (number, token) in {
        0.0: (1, "A"),
        1.0: (2, "B"),
        5.0: (3, ""),
        8.0: (4, "C"),
    }.items():
        stream.apply(Frame(str(number), {"status": "processing", "token": token}), at_s)
    gap = longest_gap(stream)
    assert gap is not None
    assert (gap.start_s, gap.end_s) == (1.0, 8.0)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (51.0, 100.0)
    assert percentile([], 0.5) == 0.0


def test_stored_events_are_put_together_by_position() -> None:
    first = '{"c":0,"p":0,"i":[1,2],"t":["a","b"]}'
    second = '{"c":0,"p":2,"i":[3],"t":["c"]}'
    end = '{"s":"completed","t":[""]}'
    assert put_together([first, second, end]) == (1, 2, 3)
    assert put_together([first, '{"r":1}', first, end]) == (1, 2)
    assert put_together([second, end]) is None
    assert put_together([first, first, end]) is None
