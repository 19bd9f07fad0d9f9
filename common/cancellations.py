"""Cancel signals: job ids called out to every worker the moment an owner cancels.

A lost signal only delays a cancel: the answers to appends and heartbeats name cancelled jobs too.
"""

from __future__ import annotations

from typing import Any, cast

from common import keys
from common.connection import SyncRedis, translated_errors


class Cancellations:
    """A worker's subscription. Not thread-safe: one thread waits on it."""

    def __init__(self, client: SyncRedis) -> None:
        self._pubsub = cast(Any, client).pubsub(ignore_subscribe_messages=True)
        self._is_subscribed = False

    def wait(self, timeout_s: float) -> str | None:
        """The id of a job that was cancelled, or None after the timeout.

        Raises:
            RedisUnavailableError: Redis is away; call again later.
        """
        with translated_errors():
            if not self._is_subscribed:
                self._pubsub.subscribe(keys.CANCEL)
                self._is_subscribed = True
            message = self._pubsub.get_message(timeout=timeout_s)
        return None if message is None else str(message["data"])
