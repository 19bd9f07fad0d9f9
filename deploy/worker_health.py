"""The worker container's healthcheck: exit with 0 when a worker of this container beats.

A worker announces itself in Redis with every heartbeat, and beats only while its engine moves, so
the announcement is the whole truth: it is there within seconds of the start, while a model is
being loaded, and gone within `keys.WORKER_TTL_S` of a hang. It knows nothing about processes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from common.connection import connect_async
from common.errors import BatonError
from common.fleet import FleetReader, ServedModel


async def models_of_this_container() -> list[ServedModel]:
    """What the workers of this container serve; [] where none of them beats.

    Raises:
        RedisUnavailableError: Redis is away.
    """
    client = connect_async(os.environ["REDIS_URL"])
    try:
        fleet = await FleetReader(client).snapshot([])
    finally:
        await client.aclose()
    here = [worker for worker in fleet.workers if worker.host == socket.gethostname()]
    return [served for worker in here for served in worker.models.values()]


def main() -> str | None:
    """Say what is wrong, in one line; None where nothing is."""
    try:
        models = asyncio.run(models_of_this_container())
    except BatonError as error:
        return error.message
    if not models:
        return "no worker of this container has announced itself"
    failed = [served.reason or "unknown" for served in models if served.state == "error"]
    # One that serves some of its models is of use.
    return f"no model can be loaded: {failed[0]}" if len(failed) == len(models) else None


if __name__ == "__main__":
    sys.exit(main())
