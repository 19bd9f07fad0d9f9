"""The prompt encoders of this gateway, one for each model, built from the models' cards.

Building one and encoding a long prompt take long enough to be felt by everybody else, so both run
in a thread.
"""

from __future__ import annotations

import asyncio

from api.token_texts import TokenTexts
from common.fleet import FleetReader
from common.model_card import ModelCard
from common.prompt import PromptEncoder
from common.schemas import Prompt

LONG_AT_ONCE = 1
"""Long prompts that are encoded at the same time: one client's must not take every core."""
INLINE_CHARS = 4096
"""Prompts up to this length are encoded on the event loop: that takes less than a switch."""


class Tokenizers:
    """Encodes prompts by the card that is given; a new card makes a new encoder."""

    def __init__(self, reader: FleetReader) -> None:
        self._reader = reader
        self._encoders: dict[str, PromptEncoder] = {}
        self._texts: dict[str, TokenTexts] = {}
        self._building = asyncio.Lock()
        self._long = asyncio.Semaphore(LONG_AT_ONCE)

    async def encode(self, card: ModelCard, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt.

        Raises:
            InvalidRequestError: The chat template refuses the messages, or nothing is left.
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        encoder = await self._encoder(card)
        if _num_chars(prompt) <= INLINE_CHARS:
            return encoder.encode(prompt)
        async with self._long:
            return await asyncio.to_thread(encoder.encode, prompt)

    async def texts(self, card: ModelCard) -> TokenTexts:
        """What each token of a model stands for.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        encoder = await self._encoder(card)
        texts = self._texts.get(card.model)
        if texts is None or texts.tokenizer is not encoder.tokenizer:
            texts = self._texts[card.model] = await asyncio.to_thread(TokenTexts, encoder.tokenizer)
        return texts

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
