"""Handing back the jobs of a worker process that has died, so that they need not wait for a lease.

Done by the launcher, which sees the death at once. Where launcher and worker die together, the
leases pass and a reaper takes the jobs back.
"""

from __future__ import annotations

import logging
import socket
import uuid

from common.connection import connect
from common.errors import RedisUnavailableError
from common.job_store import Claims
from common.reaping import Reaping
from common.request_log import request_logger
from common.settings import Settings
from worker.reaper import tell_ends

LAUNCH_ID = "BATON_LAUNCH_ID"
"""The variable that tells a worker process which launcher started it; no setting."""

log = logging.getLogger(__name__)


def worker_id(launch_id: str, pid: int) -> str:
    """The id of a worker process: the launcher that started it knows it too."""
    return f"{socket.gethostname()}-{pid}-{launch_id}"


class HandBack:
    """Hands back the jobs of the processes of one launcher.

    Args:
        settings: With a `redis_url`.

    Attributes:
        launch_id: Goes into the environment of each process, as `LAUNCH_ID`.
    """

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self.launch_id = uuid.uuid4().hex[:8]
        client = connect(redis_url)
        self._reaping = Reaping(client, settings)
        self._claims = Claims(client, settings, "launcher")
        self._on_end = request_logger(log_prompts=settings.log_prompts)

    def __call__(self, name: str, pid: int) -> None:
        """A process has ended, however that came about; one that drained has hardly a job left."""
        try:
            reaped = self._reaping.hand_back(worker_id(self.launch_id, pid))
            tell_ends(self._claims, reaped.ended, self._on_end)
        except RedisUnavailableError:
            log.warning("Redis is away; the jobs of %s wait until their leases have passed", name)
            return
        except Exception:
            # Whatever it is, it must not end the launcher, and with it the other workers.
            log.exception("The jobs of %s wait until their leases have passed", name)
            return
        if reaped.requeued:
            log.warning("Jobs of %s that go on elsewhere: %d", name, len(reaped.requeued))
