"""The prompt encoders of this gateway, one for each model, built from the models' cards.

Building one and encoding a long prompt take long enough to be felt by everybody else, so both run
in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from common.fleet import FleetReader
from common.model_card import ModelCard
from common.prompt import PromptEncoder
from common.schemas import Prompt

LONG_AT_ONCE = 1
"""Long prompts that are encoded at the same time: one client's must not take every core."""
INLINE_CHARS = 4096
"""Up to this length texts are encoded, and as many tokens decoded, on the event loop: that takes
less than a switch."""


T = TypeVar("T")


class Tokenizers:
    """Encodes prompts by the card that is given; a new card makes a new encoder."""

    def __init__(self, reader: FleetReader) -> None:
        self._reader = reader
        self._encoders: dict[str, PromptEncoder] = {}
        self._building = asyncio.Lock()
        self._long = asyncio.Semaphore(LONG_AT_ONCE)

    async def encode(self, card: ModelCard, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt.

        Raises:
            InvalidRequestError: The chat template refuses the messages, or nothing is left.
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        encoder = await self._encoder(card)
        return await self._run(lambda: encoder.encode(prompt), _num_chars(prompt))

    async def encode_texts(
        self, card: ModelCard, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[list[int]]:
        """The token ids of each text as it is, without the chat template; none of an empty one.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        tokenizer = (await self._encoder(card)).tokenizer

        def encode() -> list[list[int]]:
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
            return [encoding.ids for encoding in encodings]

        return await self._run(encode, sum(map(len, texts)))

    async def decode(
        self, card: ModelCard, token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """The text of tokens.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        tokenizer = (await self._encoder(card)).tokenizer

        def decode() -> str:
            return tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

        return await self._run(decode, len(token_ids))

    async def _run(self, work: Callable[[], T], size: int) -> T:
        """Do short work at once, and long work in a thread."""
        if size <= INLINE_CHARS:
            return work()
        async with self._long:
            return await asyncio.to_thread(work)

    async def _encoder(self, card: ModelCard) -> PromptEncoder:
        encoder = self._encoders.get(card.model)
        if encoder is not None and encoder.card == card:
            return encoder
        async with self._building:
            encoder = self._encoders.get(card.model)
            if encoder is None or encoder.card != card:
                tokenizer_json = await self._reader.tokenizer(card.tokenizer_sha256)
                encoder = await asyncio.to_thread(PromptEncoder, card, tokenizer_json)
                self._encoders[card.model] = encoder
        return encoder


def _num_chars(prompt: Prompt) -> int:
    if prompt.messages is not None:
        return sum(len(str(message["content"])) for message in prompt.messages)
    return len(prompt.text or "")
