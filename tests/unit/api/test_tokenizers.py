from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

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
