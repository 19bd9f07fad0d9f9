"""Connections to Redis, the Lua scripts, and Redis's errors in the service's own words.

A script is sent by its hash and, where the server does not know it (a restart forgets them), in
full. Every script is safe to repeat, so both clients repeat a call after a lost reply.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from common.errors import RedisUnavailableError
from common.keys import LUA_KEYS
from common.permits import LUA_PERMITS
from common.tallies import LUA_TALLIES

SyncRedis = redis.Redis
AsyncRedis = redis.asyncio.Redis
RefusedError = redis.ResponseError

CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 64
RETRIES = 1
RETRY_AFTER_S = 1.0

_BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=0.5)
_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError)
# Answers that pass by themselves. redis-py has no class for some; a pipeline puts words before the
# code, and Redis 6.2 puts a script's own error inside "Error running script".
_REFUSALS = re.compile(r"\b(OOM|READONLY|MISCONF|NOREPLICAS|BUSY|MASTERDOWN|LOADING) ")


class Script:
    """One Lua script of `common/scripts`, with the key names and the shared parts before it."""

    def __init__(self, name: str) -> None:
        folder = resources.files("common") / "scripts"
        parts = [(folder / f"{part}.lua").read_text() for part in ("_tallies", "_shared", name)]
        self.source = LUA_KEYS + LUA_PERMITS + LUA_TALLIES + "".join(parts)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, client: SyncRedis, *args: object) -> Any:
        """Run the script and wait for its answer."""
        try:
            return client.evalsha(self.sha, 0, *cast(Any, args))
        except NoScriptError:
            return client.eval(self.source, 0, *cast(Any, args))

    async def acall(self, client: AsyncRedis, *args: object) -> Any:
        """Run the script from an event loop."""
        try:
            return await cast(Any, client.evalsha(self.sha, 0, *cast(Any, args)))
        except NoScriptError:
            return await cast(Any, client.eval(self.source, 0, *cast(Any, args)))


def connect(url: str) -> SyncRedis:
    """A client for threads; it connects at its first call, and more calls than connections wait."""
    pool = redis.BlockingConnectionPool.from_url(url, retry=Retry(_BACKOFF, RETRIES), **_options())
    return redis.Redis.from_pool(pool)


def connect_async(url: str) -> AsyncRedis:
    """A client for an event loop; it connects at its first call, and more calls wait."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, retry=AsyncRetry(_BACKOFF, RETRIES), **_options()
    )
    # The class depends on the URL's scheme, which `from_url` reads.
    bases = (_ClosedIsLost, pool.connection_class)
    pool.connection_class = type(pool.connection_class.__name__, bases, {})
    return redis.asyncio.Redis.from_pool(pool)


class _ClosedIsLost:
    """Before an asynchronous connection: tells a closed transport as a lost connection.

    uvloop raises a bare RuntimeError where it has noticed that the server closed the connection and
    redis-py has not; redis-py would neither repeat the call nor call that an error of its own.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RuntimeError as error:
            raise redis.ConnectionError(str(error)) from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn Redis's being away, full or read-only into `RedisUnavailableError`.

    Any other Redis error is a bug of ours and passes through.
    """
    try:
        yield
    except _AWAY as error:
        raise _unavailable() from error
    except redis.ResponseError as error:
        if _REFUSALS.search(str(error)):
            raise _unavailable() from error
        raise


def _unavailable() -> RedisUnavailableError:
    return RedisUnavailableError(
        "The queue cannot be reached right now; try again.",
        retry_after_s=RETRY_AFTER_S,
    )


def pairs(flat: list[str]) -> dict[str, str]:
    """A flat list of fields and values, as scripts return HGETALL, as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _options() -> dict[str, Any]:
    return {
        "decode_responses": True,
        "max_connections": MAX_CONNECTIONS,
        "timeout": REPLY_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "retry_on_error": [redis.ConnectionError, redis.TimeoutError],
    }
