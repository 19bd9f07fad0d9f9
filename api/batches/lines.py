"""The lines of a batch's input, read a piece at a time: never all of it in memory."""

from __future__ import annotations

from dataclasses import dataclass

from api.object_store import ObjectStore

PIECE_BYTES = 256 << 10
MAX_LINE_BYTES = 1 << 20
"""As much as the body of a request may have."""


@dataclass(frozen=True, slots=True)
class InputLine:
    """One line, without its end.

    Attributes:
        number: 1 is the first line.
        length: Bytes.
        content: None where it is longer than `MAX_LINE_BYTES`.
    """

    number: int
    length: int
    content: bytes | None

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing but white space."""
        return self.content is not None and not self.content.strip()


class LineReader:
    """Lines of an object, one after another.

    Args:
        size: Of the object, in bytes.
        start: Where a line begins.
        number: Of the line before that.

    Attributes:
        cursor: Bytes that have been read.
        number: Of the last line that was read.
    """

    def __init__(
        self, store: ObjectStore, path: str, size: int, start: int = 0, number: int = 0
    ) -> None:
        self._store = store
        self._path = path
        self._size = size
        self._fetched = start
        self._buffer = b""
        self._at = 0  # where in the buffer the next line begins
        self.cursor = start
        self.number = number

    async def next(self) -> InputLine | None:
        """The next line; None after the last one.

        Raises:
            FileNotFoundError: The object is gone.
            FileStoreError: The store cannot be reached; a repeat goes on where it was.
        """
        end = await self._find_end()
        if end is None and self.cursor >= self._size:
            return None
        content = self._buffer[self._at : end]
        length = len(content)
        if end is None and length > MAX_LINE_BYTES:
            length = await self._pass_over(length)
        else:
            self._at = len(self._buffer) if end is None else end + 1
            self.cursor += length + (end is not None)
        self.number += 1
        is_long = length > MAX_LINE_BYTES
        return InputLine(self.number, length, None if is_long else content.removesuffix(b"\r"))

    async def _find_end(self) -> int | None:
        """Where in the buffer the next line ends; None where it does not, or is too long."""
        searched = self._at
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                return end
            searched = len(self._buffer) - self._at
            if searched > MAX_LINE_BYTES or not await self._fetch():
                return None

    async def _pass_over(self, length: int) -> int:
        """Pass over the rest of a line that is too long; its length."""
        while True:
            self._at = len(self._buffer)
            if not await self._fetch():
                self.cursor += length
                return length
            end = self._buffer.find(b"\n")
            if end >= 0:
                self._at = end + 1
                self.cursor += length + end + 1
                return length + end
            length += len(self._buffer)

    async def _fetch(self) -> bool:
        """Fetch the next piece; the buffer then begins at the line. False after the last one."""
        length = min(PIECE_BYTES, self._size - self._fetched)
        if length <= 0:
            return False
        piece = await self._store.read_range(self._path, self._fetched, length)
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        self._fetched += length
        return True


async def count_lines(reader: LineReader, most: int) -> int:
    """Lines that are not blank; one more than `most` stands for any number above it."""
    count = 0
    while count <= most and (line := await reader.next()) is not None:
        count += not line.is_blank
    return count
