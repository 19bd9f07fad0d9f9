"""What is known of the files that clients have uploaded, and of those made for them.

The contents are elsewhere (`api.object_store`). Knows nothing about HTTP.

Fields of a file's hash (`keys.file`): key filename purpose bytes created_ms, expires_ms where it
expires. The times are milliseconds since the epoch, of the gateway that wrote them.

Raises:
    RedisUnavailableError: Redis is away; every call is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from common import keys
from common.connection import AsyncRedis, translated_errors
from common.errors import StoredFileNotFoundError

Order = Literal["asc", "desc"]
PAGE = 256


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file.

    Attributes:
        key_id: Whose it is.
        expires_ms: When it is deleted; None: by its owner alone.
    """

    file_id: str
    key_id: str
    filename: str
    purpose: str
    num_bytes: int
    created_ms: int
    expires_ms: int | None = None

    def to_fields(self) -> dict[str, str]:
        """The hash's fields."""
        record = {
            "key": self.key_id,
            "filename": self.filename,
            "purpose": self.purpose,
            "bytes": str(self.num_bytes),
            "created_ms": str(self.created_ms),
        }
        if self.expires_ms is not None:
            record["expires_ms"] = str(self.expires_ms)
        return record

    @classmethod
    def from_fields(cls, file_id: str, record: dict[str, str]) -> Self:
        """The inverse of `to_fields`."""
        expires = record.get("expires_ms")
        return cls(
            file_id=file_id,
            key_id=record["key"],
            filename=record["filename"],
            purpose=record["purpose"],
            num_bytes=int(record["bytes"]),
            created_ms=int(record["created_ms"]),
            expires_ms=None if expires is None else int(expires),
        )


class FileRecords:
    """Adds, finds, lists and forgets files; the gateway's alone."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client

    async def add(self, record: FileRecord) -> None:
        """Make a file known, whose content is stored already. Repeated, it changes nothing."""
        with translated_errors():
            pipe = self._client.pipeline(transaction=True)
            pipe.hset(keys.file(record.file_id), mapping=cast(Any, record.to_fields()))
            pipe.zadd(keys.files(record.key_id), {record.file_id: record.created_ms})
            if record.expires_ms is not None:
                pipe.zadd(keys.FILE_EXPIRY, {record.file_id: record.expires_ms})
            await pipe.execute()

    async def get(self, file_id: str, key_id: str) -> FileRecord:
        """A file that belongs to the key.

        Raises:
            StoredFileNotFoundError: There is none, or it belongs to another key.
        """
        record = await self.find(file_id)
        if record is None or record.key_id != key_id:
            raise StoredFileNotFoundError(f"File '{file_id}' not found")
        return record

    async def find(self, file_id: str) -> FileRecord | None:
        """A file, whoever it belongs to."""
        with translated_errors():
            fields = await cast(Any, self._client.hgetall(keys.file(file_id)))
        return FileRecord.from_fields(file_id, fields) if fields else None

    async def forget(self, record: FileRecord) -> None:
        """Make a file unknown; its content is to be deleted after this. A repeat is safe."""
        with translated_errors():
            pipe = self._client.pipeline(transaction=True)
            pipe.delete(keys.file(record.file_id))
            pipe.zrem(keys.files(record.key_id), record.file_id)
            pipe.zrem(keys.FILE_EXPIRY, record.file_id)
            await pipe.execute()

    async def page(
        self,
        key_id: str,
        *,
        limit: int,
        order: Order = "desc",
        after: str | None = None,
        purpose: str | None = None,
    ) -> tuple[list[FileRecord], bool]:
        """Files of a key by the time of their creation, and whether there are more.

        Args:
            key_id: Whose files.
            limit: How many at most.
            order: `desc` is newest first.
            after: Those that come after this file.
            purpose: Of this purpose alone.

        Raises:
            StoredFileNotFoundError: `after` is no file of the key.
        """
        found: list[FileRecord] = []
        start = 0 if after is None else await self._place_after(key_id, after, order)
        while len(found) <= limit:
            records = await self._slice(key_id, start, order)
            if records is None:
                break
            found += [r for r in records if purpose is None or r.purpose == purpose]
            start += PAGE
        return found[:limit], len(found) > limit

    async def expired(self, now_ms: int) -> list[FileRecord]:
        """Some of the files whose time has passed."""
        with translated_errors():
            ids = await cast(
                Any, self._client.zrangebyscore(keys.FILE_EXPIRY, "-inf", now_ms, 0, PAGE)
            )
        found = [await self.find(file_id) for file_id in ids]
        return [record for record in found if record is not None]

    async def _place_after(self, key_id: str, file_id: str, order: Order) -> int:
        rank = self._client.zrank if order == "asc" else self._client.zrevrank
        with translated_errors():
            place = await cast(Any, rank(keys.files(key_id), file_id))
        if place is None:
            raise StoredFileNotFoundError(f"File '{file_id}' not found", param="after")
        return int(place) + 1

    async def _slice(self, key_id: str, start: int, order: Order) -> list[FileRecord] | None:
        """A page of records; None where there is nothing from this place on."""
        with translated_errors():
            ids = await cast(
                Any,
                self._client.zrange(
                    keys.files(key_id), start, start + PAGE - 1, desc=order == "desc"
                ),
            )
            if not ids:
                return None
            pipe = self._client.pipeline(transaction=False)
            for file_id in ids:
                pipe.hgetall(keys.file(file_id))
            hashes = await pipe.execute()
        return [FileRecord.from_fields(i, h) for i, h in zip(ids, hashes, strict=True) if h]
