"""What came out of a batch's lines, on its way into the output and error files.

Lines are collected and written in parts, each an object of its own; a part counts once its number
is in the batch's record. In the end the parts are put together. So nobody has to write to the end
of an object, which object stores cannot, and what a dead driver wrote and did not count is written
over by the next one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from api.files import Files
from api.object_store import ObjectStore
from common.file_records import FileRecord

Kind = Literal["output", "error"]
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MOST_BYTES = 4 << 20


def _path(batch_id: str, kind: Kind, number: int) -> str:
    return f"batches/{batch_id}/{kind}-{number:06d}"


def encode_line(value: dict[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


class Part:
    """Lines that are in no part yet."""

    def __init__(self, num_parts: int) -> None:
        """Collect from now on.

        Args:
            num_parts: That the batch has: the more, the longer are the pauses between them.
        """
        self.lines: dict[Kind, list[bytes]] = {"output": [], "error": []}
        self.numbers: list[int] = []
        self._num_bytes = 0
        self._due_s: float | None = None
        self._pause_s = min(FIRST_PAUSE_S * (1 + num_parts / 8), LONGEST_PAUSE_S)

    def add(self, kind: Kind, number: int, value: dict[str, Any]) -> None:
        """Keep what came out of a line."""
        line = encode_line(value)
        self.lines[kind].append(line)
        self.numbers.append(number)
        self._num_bytes += len(line)
        if self._due_s is None:
            self._due_s = time.monotonic() + self._pause_s

    @property
    def is_due(self) -> bool:
        """Whether to write it now."""
        if self._due_s is None:
            return False
        return self._num_bytes >= MOST_BYTES or time.monotonic() >= self._due_s

    async def write(self, store: ObjectStore, batch_id: str, numbers: dict[Kind, int]) -> None:
        """Write what there is, as the parts with these numbers."""
        for kind, lines in self.lines.items():
            if lines:
                body = b"".join(line + b"\n" for line in lines)
                await store.put(_path(batch_id, kind, numbers[kind]), body)


async def assemble(
    files: Files, batch_id: str, key_id: str, kind: Kind, count: int
) -> FileRecord | None:
    """Make a file of all parts of a kind; None where there are none. A repeat is safe."""
    if count == 0:
        return None
    digest = hashlib.sha256(f"{batch_id} {kind}".encode()).hexdigest()
    return await files.create(
        _contents(files.store, batch_id, kind, count),
        key_id=key_id,
        filename=f"{batch_id}_{kind}.jsonl",
        purpose="batch_output",
        file_id=f"file-{digest[:24]}",
    )


async def discard(store: ObjectStore, batch_id: str, kind: Kind, count: int) -> None:
    """Delete the parts of a kind."""
    for number in range(count):
        await store.delete(_path(batch_id, kind, number))


async def _contents(
    store: ObjectStore, batch_id: str, kind: Kind, count: int
) -> AsyncIterator[bytes]:
    for number in range(count):
        async for piece in store.read(_path(batch_id, kind, number)):
            yield piece
