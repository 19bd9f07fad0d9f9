from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from api import tokenizers as module
from api.tokenizers import INLINE_CHARS, Tokenizers
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
