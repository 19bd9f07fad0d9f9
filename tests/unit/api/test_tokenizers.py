from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest

from api import tokenizers as module
from api.tokenizers import INLINE_CHARS, Tokenizers
from common.errors import GatewayBusyError
from common.fleet import FleetReader
from common.schemas import Prompt
from tests.fakes import byte_tokenizer, fake_card


class Reader:
    def __init__(self) -> None:
        self.num_reads = 0

    async def tokenizer(self, sha256: str) -> str:
        self.num_reads += 1
        return byte_tokenizer()


async def test_one_encoder_serves_all_prompts_of_a_model() -> None:
    reader = Reader()
    tokenizers = Tokenizers(cast(FleetReader, reader))
    prompts = [Prompt(text=text, raw=True) for text in ("abc", "abc", "a" * (INLINE_CHARS + 1))]
    ids = await asyncio.gather(*(tokenizers.encode(fake_card(), prompt) for prompt in prompts))
    assert ids[0] == ids[1]
    assert ids[2] == ids[0][:1] * (INLINE_CHARS + 1)
    assert reader.num_reads == 1


async def test_a_new_card_makes_a_new_encoder() -> None:
    reader = Reader()
    tokenizers = Tokenizers(cast(FleetReader, reader))
    prompt = Prompt(text="abc")
    templated = await tokenizers.encode(fake_card(), prompt)
    plain = await tokenizers.encode(replace(fake_card(), chat_template=None), prompt)
    assert len(templated) > len(plain) == 3
    assert reader.num_reads == 2


@pytest.mark.parametrize(("limit", "value"), [("INLINE_LIMIT_S", 0.0), ("INLINE_CHARS", 1)])
async def test_what_takes_long_over_few_words_is_rendered_in_a_thread(
    limit: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = "{% for i in range(999) %}{{ i % 2 }}{% endfor %}"
    card, prompt = replace(fake_card(), chat_template=loops), Prompt(text="a")
    tokenizers = Tokenizers(cast(FleetReader, Reader()))
    at_once = await tokenizers.encode(card, prompt)
    in_threads = []

    async def noted(work: Callable[[], object], *args: object) -> object:
        in_threads.append(work)
        return work(*args)

    monkeypatch.setattr(module, limit, value)
    monkeypatch.setattr(asyncio, "to_thread", noted)
    assert await tokenizers.encode(card, prompt) == at_once
    assert len(in_threads) == 1


class FirstIsLong:
    """Stands for threads, of which the first that encodes takes until it is told to end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = asyncio.Event()
        self.end = asyncio.Event()
        monkeypatch.setattr(module, "INLINE_CHARS", 0)
        monkeypatch.setattr(asyncio, "to_thread", self._run)

    async def _run(self, work: Callable[..., object], *args: object) -> object:
        is_encoding = not args
        if is_encoding and not self.began.is_set():
            self.began.set()
            await self.end.wait()
        return work(*args)


async def test_one_model_s_long_prompt_holds_up_no_other_model_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, tokenizers = FirstIsLong(monkeypatch), Tokenizers(cast(FleetReader, Reader()))
    first = asyncio.create_task(tokenizers.encode(fake_card("slow"), Prompt(text="a")))
    await threads.began.wait()
    assert await tokenizers.encode(fake_card("other"), Prompt(text="a"))
    assert not first.done()
    threads.end.set()
    assert await first


async def test_one_model_s_encoder_is_built_while_another_s_is_still_built() -> None:
    class Stuck(Reader):
        async def tokenizer(self, sha256: str) -> str:
            if sha256 == "slow":
                await asyncio.Event().wait()
            return await super().tokenizer(sha256)

    tokenizers = Tokenizers(cast(FleetReader, Stuck()))
    slow = replace(fake_card("slow"), tokenizer_sha256="slow")
    building = asyncio.create_task(tokenizers.encoder(slow))
    await asyncio.sleep(0)
    assert await tokenizers.encode(fake_card("other"), Prompt(text="a"))
    building.cancel()
    with suppress(asyncio.CancelledError):
        await building


async def test_waiting_for_a_model_s_other_long_prompts_has_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, tokenizers = FirstIsLong(monkeypatch), Tokenizers(cast(FleetReader, Reader()), 0.01)
    first = asyncio.create_task(tokenizers.encode(fake_card("m"), Prompt(text="a")))
    await threads.began.wait()
    with pytest.raises(GatewayBusyError, match="'m' are before this one") as refused:
        await tokenizers.encode(fake_card("m"), Prompt(text="a"))
    assert (refused.value.status, refused.value.retry_after_s) == (503, module.RETRY_AFTER_S)
    threads.end.set()
    assert await first == await tokenizers.encode(fake_card("m"), Prompt(text="a"))


async def test_a_client_that_hangs_up_leaves_its_place_only_when_its_thread_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, tokenizers = FirstIsLong(monkeypatch), Tokenizers(cast(FleetReader, Reader()), 0.01)
    first = asyncio.create_task(tokenizers.encode(fake_card("m"), Prompt(text="a")))
    await threads.began.wait()
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    with pytest.raises(GatewayBusyError):
        await tokenizers.encode(fake_card("m"), Prompt(text="a"))
    threads.end.set()
    assert await tokenizers.encode(fake_card("m"), Prompt(text="a"))
