"""A prompt that takes a second to read takes nothing from the gateway's other clients."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from common.model_entries import BUNDLED_DIR
from common.prompt import PromptEncoder
from tests.fakes import fake_card
from tests.integration.api.support import MODEL, HandWorker

# Lines, because a tokenizer reads a text word by word: no two words are one piece of work.
LONG = "".join(f"{number} dogs and {number} cats\n" for number in range(38_000))[:1_000_000]


async def test_the_gateway_is_alive_while_a_megabyte_is_encoded(
    live_http: httpx.AsyncClient, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.publish(fake_card(MODEL), (BUNDLED_DIR / "tokenizer.json").read_text())
    encode, num_alive, during = PromptEncoder.encode, 0, []

    def counting(*args: Any, **options: Any) -> tuple[int, ...]:
        before = num_alive
        try:
            return encode(*args, **options)
        finally:
            during.append(num_alive - before)

    monkeypatch.setattr(PromptEncoder, "encode", counting)
    asking = asyncio.create_task(live_http.post("/generate", json={"prompt": LONG, "raw": True}))
    while not asking.done():
        assert (await live_http.get("/health/live")).status_code == 200
        num_alive += 1

    answer = await asking
    assert (answer.status_code, answer.json()["error_type"]) == (400, "ContextLengthError")
    # With the interpreter lock held there would be those before and after it alone, one to four.
    assert during[0] > 8
