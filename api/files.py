"""Files: their content in the object store, what is known of them in Redis.

The content is written first and deleted last, so a file that is known can be read. A gateway that
dies in between leaves at most an object that nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from api.background import forever
from api.object_store import Body, ObjectStore
from common.errors import FileStoreError, RedisUnavailableError, StoredFileNotFoundError
from common.file_records import FileRecord, FileRecords

SWEEP_S = 60.0
MAX_NAME_CHARS = 256

_log = logging.getLogger(__name__)


def path_of(file_id: str) -> str:
    """Where a file's content is."""
    return f"files/{file_id}"


class Files:
    """Keeps files until their owner deletes them, or their time has passed."""

    def __init__(self, records: FileRecords, store: ObjectStore) -> None:
        self.records = records
        self.store = store

    async def run(self) -> None:
        """Delete files whose time has passed, until cancelled."""
        await forever(self._sweep_and_rest)

    async def create(
        self,
        body: Body,
        *,
        key_id: str,
        filename: str,
        purpose: str,
        lifetime_s: int | None = None,
        file_id: str | None = None,
    ) -> FileRecord:
        """Keep a file.

        Args:
            body: Its content.
            key_id: Whose it is.
            filename: As its owner calls it.
            purpose: What it is for.
            lifetime_s: Seconds after which it is deleted; None: never.
            file_id: Given where a repeat must not make another file; else a fresh one.

        Raises:
            FileStoreError: The content cannot be written.
            RedisUnavailableError: Redis is away.
        """
        file_id = file_id or f"file-{secrets.token_hex(12)}"
        await self.store.put(path_of(file_id), body)
        now_ms = int(time.time() * 1000)
        record = FileRecord(
            file_id=file_id,
            key_id=key_id,
            filename=filename,
            purpose=purpose,
            num_bytes=await self.store.size(path_of(file_id)) or 0,
            created_ms=now_ms,
            expires_ms=None if lifetime_s is None else now_ms + lifetime_s * 1000,
        )
        await self.records.add(record)
        return record

    async def read(self, record: FileRecord) -> AsyncIterator[bytes]:
        """The content of a file, a piece at a time.

        Raises:
            StoredFileNotFoundError: The content is gone.
        """
        try:
            async for piece in self.store.read(path_of(record.file_id)):
                yield piece
        except FileNotFoundError as error:
            raise StoredFileNotFoundError(
                f"The content of file '{record.file_id}' is gone"
            ) from error

    async def delete(self, record: FileRecord) -> None:
        """Delete a file; a repeat does no harm."""
        await self.records.forget(record)
        await self.store.delete(path_of(record.file_id))

    async def _sweep_and_rest(self) -> None:
        with suppress(RedisUnavailableError):
            for record in await self.records.expired(int(time.time() * 1000)):
                try:
                    await self.delete(record)
                except FileStoreError:
                    _log.warning("The content of %s could not be deleted", record.file_id)
        await asyncio.sleep(SWEEP_S)
