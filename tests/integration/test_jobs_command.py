"""`baton jobs check`, as an operator calls it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cli import embedded_redis
from cli.jobs import embedded_url
from cli.main import main
from common import keys
from common.connection import connect
from common.errors import SettingsError
from common.settings import Settings
from tests.integration.stored_jobs import StoredJobs, store_jobs
from tests.integration.stores import MODEL, Bench
from tests.redis_server import RedisServer

CHECK = ["jobs", "check"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MODEL_NAME", MODEL)


@pytest.fixture
async def jobs(bench: Bench) -> AsyncIterator[StoredJobs]:
    yield await store_jobs(bench)
    bench.client.flushall()


@pytest.fixture
def embedded() -> Iterator[embedded_redis.EmbeddedRedis]:
    """A server as `baton up` prepares it in ./data; it does not run."""
    prepared = embedded_redis.prepare(Path("data"))
    yield prepared
    for lock in prepared.child.pass_fds:
        os.close(lock)


async def test_a_sound_service_is_0_and_says_how_much_was_looked_at(
    jobs: StoredJobs, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*CHECK, "--redis-url", redis_url]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("no violation in 3 jobs, ")
    assert shown.err == ""


async def test_jobs_of_a_model_that_is_not_configured_are_told_and_no_violation(
    jobs: StoredJobs,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_NAME", "baton-toy")
    assert main([*CHECK, "--redis-url", redis_url]) == 0
    note, last = capsys.readouterr().out.splitlines()
    assert note == f"note: 1 task waits for '{MODEL}', which is not configured (MODEL_NAME)"
    assert last.startswith("no violation in 3 jobs, ")


async def test_violations_are_1_with_a_line_each(
    jobs: StoredJobs,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    jobs.client.set("baton:a\nb", 1)
    jobs.client.zrem(keys.LEASES, jobs.running)
    assert main(CHECK) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [
        f"no_lease {jobs.running}: expected a running job with a lease, found none",
        "unknown_key 'baton:a\\nb': expected a key that baton knows, found a string",
    ]
    assert last.startswith("2 violations in 3 jobs, ")


async def test_a_check_changes_nothing(jobs: StoredJobs, redis_url: str) -> None:
    def num_changes() -> int:
        changes: int = jobs.client.info("persistence")["rdb_changes_since_last_save"]
        return changes

    before = num_changes()
    assert main([*CHECK, "--redis-url", redis_url]) == 0
    assert num_changes() == before


def test_a_redis_that_is_away_is_3_and_its_password_is_not_shown(
    own_redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    own_redis.kill()
    url = f"redis://:secret@127.0.0.1:{own_redis.port}/0"
    assert main([*CHECK, "--redis-url", url]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("baton: Redis cannot be reached\n")
    assert "Connection refused" in shown.err
    assert "secret" not in shown.err


@pytest.mark.parametrize("password", ["", ":secret@"])
def test_a_redis_that_takes_another_password_is_3(
    own_redis: RedisServer, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(own_redis.url) as client:
        client.config_set("requirepass", "another")
    assert main([*CHECK, "--redis-url", f"redis://{password}127.0.0.1:{own_redis.port}/0"]) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("baton: Redis cannot be reached\n  ")
    assert "secret" not in shown


def test_without_a_redis_url_the_embedded_server_is_found_by_its_folder(
    embedded: embedded_redis.EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embedded_url(Path("data")) == embedded.url
    server = subprocess.Popen(embedded.child.argv)
    try:
        assert embedded.child.ready is not None
        while not embedded.child.ready():
            assert server.poll() is None, "the server ended"
        assert main(CHECK) == 0
    finally:
        server.terminate()
        server.wait()
    assert capsys.readouterr().out == "no violation in 0 jobs, 0 keys\n"


def test_an_embedded_server_that_does_not_run_is_3_and_is_not_started(
    embedded: embedded_redis.EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(CHECK) == 3
    assert "DATA_DIR=data; does `baton up` run?" in capsys.readouterr().err
    assert embedded.child.ready is not None
    assert not embedded.child.ready()


def test_a_folder_without_a_server_is_2_with_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*CHECK, "--data-dir", "nowhere"]) == 2
    shown = capsys.readouterr().err
    assert "DATA_DIR=nowhere holds no server" in shown
    assert "Example: REDIS_URL=redis://" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_half_a_server_is_told(tmp_path: Path) -> None:
    (tmp_path / "redis-password").write_text("secret")
    (tmp_path / "redis.conf").write_text("bind 127.0.0.1\n")
    with pytest.raises(SettingsError, match=r"redis\.conf names no port"):
        embedded_url(tmp_path)


@pytest.mark.parametrize("arguments", [["jobs"], ["jobs", "chek"], [*CHECK, "--port", "1"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
