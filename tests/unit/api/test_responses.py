from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.responses.output import Output
from api.openai.responses.reply import Reply
from common.tool_calls.families import Family

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "}"]}}\n</tool_call>'
TEXTS = ("", "Hi", "Let me see. " + CALL, CALL + "\n" + CALL + " Done.", CALL[:40], '{"a": 1}')


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


def read(pieces: list[str], family: Family | None) -> tuple[list[dict[str, Any]], Output]:
    output = Output("job", family)
    events = [event for piece in pieces for event in output.feed(piece)]
    return events + output.close("completed", is_answer=True), output


@given(
    text=st.sampled_from(TEXTS),
    places=st.lists(st.integers(0, 200), max_size=12),
    family=st.sampled_from([None, Family.HERMES, Family.GENERIC]),
)
def test_a_text_gives_the_same_items_in_whatever_pieces_it_comes(
    text: str, places: list[int], family: Family | None
) -> None:
    _, whole = read([text], family)
    _, pieced = read(cut(text, places), family)
    assert pieced.items == whole.items


@given(text=st.sampled_from(TEXTS), places=st.lists(st.integers(0, 200), max_size=12))
def test_every_item_is_opened_told_and_closed_before_the_next(text: str, places: list[int]) -> None:
    events, output = read(cut(text, places), Family.HERMES)
    told: list[str] = []
    items = []
    for event in events:
        kind = event["type"]
        assert event["output_index"] == len(items)
        if kind == "response.output_item.added":
            told = []
        elif kind.endswith(".delta"):
            told.append(event["delta"])
        elif kind in ("response.output_text.done", "response.function_call_arguments.done"):
            assert "".join(told) == event.get("text", event.get("arguments"))
        elif kind == "response.output_item.done":
            items.append(event["item"])
    assert items == output.items
    assert len({item["id"] for item in items}) == len(items)


def test_an_answer_without_text_is_a_message_without_text_unless_it_failed() -> None:
    for is_answer in (True, False):
        output = Output("job", Family.HERMES)
        output.close("completed", is_answer=is_answer)
        assert len(output.items) == is_answer


@pytest.mark.parametrize("family", [None, Family.LLAMA])
def test_what_is_kept_of_a_request_is_read_back(family: Family | None) -> None:
    reply = Reply(
        items=({"type": "message", "role": "user", "content": [{"text": "é"}]},),
        instructions="a",
        previous_response_id=None,
        is_background=True,
        is_stored=True,
        text={"format": {"type": "text"}},
        tools=({"type": "function", "name": "f"},),
        tool_choice="auto",
        parallel_tool_calls=True,
        max_output_tokens=None,
        reads_calls=True,
        family=family,
    )
    assert Reply.unpack(reply.pack()) == reply
