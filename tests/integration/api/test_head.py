"""HEAD over a real connection: a head, no body, and the connection goes on."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from tests.integration.api.conftest import LiveGateway


async def test_heads_and_gets_follow_each_other_on_one_connection(
    live: LiveGateway, live_http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await live_http.get("/health/live")).status_code == 200
    host, port = live.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with caplog.at_level(logging.ERROR):
        for path in ("/health", "/models", "/openapi.json", "/nothing"):
            for method in ("HEAD", "HEAD", "GET"):
                writer.write(f"{method} {path} HTTP/1.1\r\nHost: baton.test\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("http/1.1 ")
                if method == "GET":
                    length = int(head.partition("content-length: ")[2].split("\r\n")[0])
                    await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    assert caplog.records == []
