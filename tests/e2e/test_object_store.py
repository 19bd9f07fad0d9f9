"""Files in an object store that speaks S3, played by a stand-in server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.object_store import ObjectStore
from common.errors import FileStoreError
from common.settings import Settings
from tests.e2e.service import ROOT
from tests.redis_server import free_port

CLIENTS = Path(os.environ.get("CLIENTS_DIR", ROOT / ".clients"))
PIECE, NUM_PIECES = b"0123456789abcdef" * 65_536, 12

pytestmark = pytest.mark.skipif(
    not (CLIENTS / "python" / "bin" / "moto_server").exists(),
    reason="no stand-in for S3: `make clients` installs it",
)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket; its credentials are in the environment."""
    port = free_port()
    server = subprocess.Popen(
        [str(CLIENTS / "python" / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "Running on" in line:
                break
        url = f"http://127.0.0.1:{port}"
        for name, value in (
            ("AWS_ENDPOINT_URL", url),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        assert httpx.put(f"{url}/bucket", trust_env=False).status_code == 200
        yield "s3://bucket/prefix"
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def make_store() -> Callable[[str], ObjectStore]:
    return lambda url: ObjectStore.at(Settings(_env_file=None, files_url=url))


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(NUM_PIECES):
        yield PIECE


async def test_an_object_in_many_parts_comes_back_whole_and_in_ranges(
    bucket: str, make_store: Callable[[str], ObjectStore]
) -> None:
    store = make_store(bucket)

    await store.put("files/a", pieces())

    assert await store.size("files/a") == NUM_PIECES * len(PIECE)
    assert b"".join([piece async for piece in store.read("files/a")]) == PIECE * NUM_PIECES
    assert await store.read_range("files/a", len(PIECE) - 1, 3) == b"f01"


async def test_a_deleted_object_is_gone_and_a_second_deletion_is_no_error(
    bucket: str, make_store: Callable[[str], ObjectStore]
) -> None:
    store = make_store(bucket)
    await store.put("files/a", b"x")

    for _ in range(2):
        await store.delete("files/a")

    assert await store.size("files/a") is None


async def test_a_bucket_that_is_not_there_is_an_error_of_the_store(
    bucket: str, make_store: Callable[[str], ObjectStore]
) -> None:
    with pytest.raises(FileStoreError):
        await make_store("s3://nothing").put("files/a", b"x")
