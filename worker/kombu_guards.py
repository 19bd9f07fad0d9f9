"""Guards around kombu 5.7's Redis transport, where a lost connection ends the whole worker.

After a Redis restart `QoS.restore_unacked` and a message's acknowledgement run on a connection
that is already torn down and raise `AttributeError`; a busy threads-pool worker then dies with
"Unrecoverable error". A permit that is not restored or acknowledged costs nothing: the job is in
its record, and permits are topped up.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from kombu.message import Message
from kombu.transport.redis import QoS

log = logging.getLogger(__name__)


def install() -> None:
    """Make the three calls survive a connection that is gone. A second time it does nothing."""
    for owner, name in (
        (QoS, "restore_unacked"),
        (Message, "ack_log_error"),
        (Message, "reject_log_error"),
    ):
        original = getattr(owner, name)
        if not hasattr(original, "__wrapped__"):
            setattr(owner, name, _surviving(original))


def _surviving(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except AttributeError:
            log.warning("The broker's connection was gone; a permit was dropped")
            return None

    return guarded
