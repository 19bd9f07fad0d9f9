"""Reads the data of server-sent events, within bounds: a server's line or event may never end.

Knows nothing about HTTP or what the data means.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterable

from worker.backends.wire import UpstreamFailure

MAX_EVENT_CHARS = 1 << 20


async def read_events(parts: AsyncIterable[bytes]) -> AsyncGenerator[str]:
    """The data of each event; "" for a comment: the server is there. Other fields are passed over.

    Args:
        parts: The stream's bytes, cut anywhere.

    Raises:
        UpstreamFailure: An event is too long, or the bytes are no UTF-8.

    Source:
        https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.6; but an event that the
        stream's end cuts off is read: some servers leave out the last empty line.
    """
    data: list[str] = []
    size = 0
    async for line in read_lines(parts):
        if not line and data:
            yield "\n".join(data)
            data, size = [], 0
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
            size += len(line)
            _check_size(size)
        elif line.startswith(":"):
            yield ""
    if data:
        yield "\n".join(data)


async def read_lines(parts: AsyncIterable[bytes]) -> AsyncGenerator[str]:
    """The lines of a stream, without their ends.

    Raises:
        UpstreamFailure: A line is too long, or the bytes are no UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = ""
    try:
        async for part in parts:
            # Not `splitlines`: JSON may hold what it takes for the end of a line.
            held = (held + decoder.decode(part)).replace("\r\n", "\n")
            *lines, held = held.split("\n")
            for line in lines:
                yield line
            _check_size(len(held))
        held += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UpstreamFailure("its answer is no UTF-8") from error
    if held:
        yield held.removesuffix("\r")


def _check_size(size: int) -> None:
    if size > MAX_EVENT_CHARS:
        raise UpstreamFailure("a part of its answer is too long")
