"""Lines of a batch's input, however the store cuts it into pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from api.batches import lines as lines_module
from api.batches.lines import InputLine, LineReader, count_lines
from api.object_store import ObjectStore

PATH = "files/in"


async def reader_of(content: bytes) -> LineReader:
    store = ObjectStore(MemoryStore())
    await store.put(PATH, content)
    return LineReader(store, PATH, len(content))


async def all_of(reader: LineReader) -> list[InputLine]:
    found = []
    while (line := await reader.next()) is not None:
        found.append(line)
    return found


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "PIECE_BYTES", 3)
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 7)


@given(content=st.binary(max_size=60).map(lambda b: b.replace(b"\r", b"x")), data=st.data())
async def test_the_lines_are_those_of_the_content_in_pieces_of_any_size(
    content: bytes, data: Any
) -> None:
    size = data.draw(st.integers(1, 20))
    longest = data.draw(st.integers(1, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "PIECE_BYTES", size)
        patch.setattr(lines_module, "MAX_LINE_BYTES", longest)
        reader = await reader_of(content)

        found = await all_of(reader)

    expected = content.split(b"\n")
    if expected[-1] == b"":  # nothing comes after the last end of a line
        expected.pop()
    assert [line.content for line in found] == [e if len(e) <= longest else None for e in expected]
    assert [line.length for line in found] == [len(each) for each in expected]
    assert [line.number for line in found] == list(range(1, len(expected) + 1))
    assert reader.cursor == len(content)


async def test_a_reader_goes_on_where_another_one_was() -> None:
    store = ObjectStore(MemoryStore())
    content = b"one\r\ntwo\n\nfour"
    await store.put(PATH, content)
    first = LineReader(store, PATH, len(content))
    await first.next()

    second = LineReader(store, PATH, len(content), first.cursor, first.number)

    assert [line.content for line in await all_of(second)] == [b"two", b"", b"four"]
    assert second.number == 4


@pytest.mark.usefixtures("small_pieces")
async def test_what_is_longer_than_a_line_may_be_is_passed_over() -> None:
    reader = await reader_of(b"ab\n" + b"x" * 20 + b"\ncd")

    found = await all_of(reader)

    assert found == [InputLine(1, 2, b"ab"), InputLine(2, 20, None), InputLine(3, 2, b"cd")]


async def test_blank_lines_do_not_count() -> None:
    assert await count_lines(await reader_of(b"a\n\n  \nb\n"), most=10) == 2


async def test_counting_stops_where_there_are_too_many() -> None:
    assert await count_lines(await reader_of(b"a\n" * 100), most=10) == 11
