"""What the clients make of connections that are gone."""

from __future__ import annotations

import asyncio

import pytest

from common.connection import AsyncRedis


async def test_a_call_on_a_transport_that_the_loop_has_closed_is_repeated_on_a_new_one(
    aclient: AsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await aclient.ping()  # so that one connection is idle
    write, refused = asyncio.StreamWriter.writelines, []

    def closed_once(writer: asyncio.StreamWriter, data: object) -> None:
        # As uvloop does where it knows already that the server has gone.
        if not refused:
            refused.append(data)
            raise RuntimeError("unable to perform operation; the handler is closed")
        write(writer, data)

    monkeypatch.setattr(asyncio.StreamWriter, "writelines", closed_once)
    assert await aclient.ping()
    assert refused
