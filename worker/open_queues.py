"""Which Celery queues permits are taken from: those of models that have room now.

Celery's pool has threads for all models together. If permits of a full or unloaded model were
taken too, they would come back at once, again and again; so they rest in their list, for this
worker later or for another one now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.utils.scheduling import round_robin_cycle

from common import keys

POLL_S = 0.05
"""Seconds after which a queue that has opened is listened to, at most."""
NO_QUEUE = keys.permits("")
"""That of no model: waiting for it ends after `POLL_S`, as any wait does, and then the queues are
looked at again."""


def transport_options(is_open: Callable[[str], bool]) -> dict[str, Any]:
    """Options of kombu's Redis transport, by which it takes messages of open queues only.

    Args:
        is_open: Says so of a queue, by its name.
    """

    class OpenQueues(round_robin_cycle):
        """Takes part in kombu's choice of the queues that it listens to next."""

        def consume(self, n: int) -> list[str]:
            """The queues of the next wait; kombu takes turns among them."""
            return [queue for queue in self.items[:n] if is_open(queue)] or [NO_QUEUE]

    # kombu waits for so long at a time.
    return {"queue_order_strategy": OpenQueues, "polling_interval": POLL_S}
