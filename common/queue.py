"""The Celery app that workers consume permits with.

A message is only a permit (`common/permits.py`); it carries no arguments and has no result, and
losing one loses nothing. What the settings below guard against is written beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

VISIBILITY_TIMEOUT_S = 3600


def create_celery(redis_url: str, transport_options: Mapping[str, Any] | None = None) -> Celery:
    """A Celery app on this Redis; the tasks register themselves with it.

    Args:
        redis_url: The broker.
        transport_options: Of kombu's Redis transport, beside those below.
    """
    app = Celery("baton", broker=redis_url)
    app.conf.update(
        # One message in hand per free thread, acknowledged at its end: an early acknowledgement
        # lets a busy worker hoard a second batch while another one idles.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        # A Redis that is away, or refuses to be written to, is waited for, at the start and later,
        # without end (`worker/consumer.py` says how).
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            # Redelivery is not what recovers a job: its lease is.
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            **(transport_options or {}),
        },
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app
