"""How the client reads server-sent events; what it makes of them is in the integration tests."""

from __future__ import annotations

from client_example import ServerEvent, parse_events


def events(text: str) -> list[ServerEvent]:
    return list(parse_events(text.split("\n")))


def test_an_event_has_its_id_its_data_and_nothing_of_its_neighbours() -> None:
    assert events('id: 7\ndata: {"token":" a"}\n\ndata: {"status":"queued"}\n\n') == [
        ServerEvent(event_id=7, data={"token": " a"}),
        ServerEvent(data={"status": "queued"}),
    ]


def test_one_space_after_the_colon_is_no_part_of_the_value_and_may_be_missing() -> None:
    assert events('id:7\ndata:{"token":"a"}\n\n') == [ServerEvent(event_id=7, data={"token": "a"})]


def test_data_over_several_lines_is_put_together() -> None:
    assert events('data: {"token":\ndata: "a"}\n\n') == [ServerEvent(data={"token": "a"})]


def test_comments_and_unknown_fields_make_no_event() -> None:
    assert events(": heartbeat\n\nevent: x\nother\n\n\n\n") == []


def test_a_pause_is_told_with_an_event_or_alone_in_seconds() -> None:
    assert events("retry: 2500\n\nretry: 0\ndata: {}\n\n") == [
        ServerEvent(retry_s=2.5),
        ServerEvent(data={}, retry_s=0.0),
    ]


def test_an_event_without_its_blank_line_is_dropped() -> None:
    assert events('id: 1\ndata: {"token":"a"}\n\nid: 2\ndata: {"token":"b"}') == [
        ServerEvent(event_id=1, data={"token": "a"})
    ]
