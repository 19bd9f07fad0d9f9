"""Celery's consumer, except in how it waits for Redis.

Celery's own waits ever longer between its attempts, so that permits rest for up to half a minute
after Redis is back; and where Redis answers but refuses (read-only, out of memory, a disk that is
full), it ends the worker, or tries five times a second with a traceback each time. This one tries
once a second, without end, and says once that it waits.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.connection import Connection

RETRY_S = 1.0
_SLICE_S = 0.1

log = logging.getLogger(__name__)


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Takes permits again within seconds after Redis does, whatever was wrong with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._restart_state = _Pause()
        self._is_away = False

    def connect(self) -> Connection:
        """Connect; this also writes, so that it fails while Redis refuses to."""
        connection: Connection = super().connect()
        if self._is_away:
            self._is_away = False
            log.info("Redis is back; permits are taken again")
        return connection

    def ensure_connected(self, conn: Connection) -> Connection:
        """Try until it is connected, or the worker stops."""
        conn.ensure_connection(  # type: ignore[no-untyped-call]
            lambda error, _: self._note_away(error),
            interval_start=RETRY_S,
            interval_step=0,
            interval_max=RETRY_S,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return conn

    def also_take(self, queue: str) -> None:
        """Take permits from another queue, too. Thread-safe."""
        self.call_soon(self._also_take, queue)

    def _also_take(self, queue: str) -> None:
        queues = self.app.amqp.queues
        queues.select_add(queues[queue])
        if self.task_consumer is not None:  # else it will take them from the start
            self.add_task_queue(queue)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Note that Redis refuses to be written to."""
        self._note_away(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Note that a connection was lost, and close what is left of it."""
        self._note_away(exc)
        with warnings.catch_warnings():
            # It announces a change of a default that we set ourselves (common/queue.py); Celery
            # turns it on again after whoever had turned it off.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)

    def _note_away(self, error: Exception) -> None:
        if not self._is_away:
            log.warning("Redis is away; no permits are taken: %s", error)
        self._is_away = True


class _Pause:
    """Stands where Celery limits how often a consumer restarts: a pause between two restarts."""

    def __init__(self) -> None:
        self._last_s = -math.inf

    def step(self) -> None:
        while (rest_s := self._last_s + RETRY_S - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(rest_s, _SLICE_S))
        self._last_s = time.monotonic()
