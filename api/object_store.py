"""Where the contents of files are kept: a folder, or an object store such as S3.

A thin layer over `obstore`, whose writes are all or nothing: a reader never sees half an object,
and neither does a gateway that takes over from one that died. Knows nothing about records.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from common.errors import FileStoreError, SettingsError
from common.settings import Settings

CHUNK_BYTES = 1 << 20
_CLIENT: Any = {"allow_http": True, "connect_timeout": "5s", "timeout": "60s"}
"""Plain HTTP where an endpoint in the environment says so, as for a store on one's own net."""
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_log = logging.getLogger(__name__)

Body = bytes | IO[bytes] | AsyncIterator[bytes]


class ObjectStore:
    """Objects by their path, such as `files/file-1f0c`.

    Raises:
        FileStoreError: The store cannot be reached or cannot write; the cause is in the log.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    @classmethod
    def at(cls, settings: Settings) -> ObjectStore:
        """The store of `FILES_URL`; the folder `files` of `DATA_DIR` where there is none.

        Raises:
            SettingsError: The address cannot be used.
        """
        url = settings.files_url
        try:
            if url is None or url.startswith("file://"):
                folder = settings.data_dir / "files" if url is None else Path(urlsplit(url).path)
                return cls(LocalStore(folder.absolute(), mkdir=True))
            return cls(from_url(url, client_options=_CLIENT, retry_config=_RETRIES))
        except (BaseError, OSError, ValueError) as error:
            # The address may hold a secret; what obstore says of it does not repeat one.
            raise SettingsError(
                f"FILES_URL cannot be used: {str(error).splitlines()[0]}. "
                "Example: FILES_URL=s3://bucket/prefix"
            ) from error

    async def put(self, path: str, body: Body) -> None:
        """Write an object, whole, in place of an earlier one."""
        try:
            with _translated_errors():
                await obstore.put_async(self._store, path, body)
        except FileNotFoundError as error:  # the bucket itself
            raise _unavailable(error) from error

    async def size(self, path: str) -> int | None:
        """Bytes of an object, or None where there is none."""
        try:
            with _translated_errors():
                return int((await obstore.head_async(self._store, path))["size"])
        except FileNotFoundError:
            return None

    async def read(self, path: str) -> AsyncIterator[bytes]:
        """The content of an object, a piece at a time.

        Raises:
            FileNotFoundError: There is none.
        """
        with _translated_errors():
            answer = await obstore.get_async(self._store, path)
            async for piece in answer.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(piece)

    async def read_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes of an object from `start` on; `start` is inside of it.

        Raises:
            FileNotFoundError: There is none.
        """
        with _translated_errors():
            return bytes(
                await obstore.get_range_async(self._store, path, start=start, length=length)
            )

    async def delete(self, path: str) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            with _translated_errors():
                await obstore.delete_async(self._store, path)
        except FileNotFoundError:
            return


@contextmanager
def _translated_errors() -> Any:
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> FileStoreError:
    _log.warning("The store of files failed: %s", str(error).partition("\n")[0])
    return FileStoreError("The store of files does not answer; try again.", retry_after_s=5.0)
