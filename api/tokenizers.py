"""The prompt encoders of this gateway, one for each model, built from the models' cards.

Building one and encoding a long prompt take long enough to be felt by everybody else, so both run
in a thread, one of each model at a time: what one model's template or clients take is not taken
from another's.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from api.token_texts import TokenTexts
from common.chat_template import RenderingTooLongError
from common.embeddings import Input, check_count, encode_inputs
from common.errors import GatewayBusyError
from common.fleet import FleetReader
from common.model_card import ModelCard
from common.prompt import PromptEncoder
from common.schemas import Prompt
from common.tool_calls.families import Family

LONG_AT_ONCE = 1
"""A model's long prompts that are encoded at the same time: they must not take every core."""
MOST_WAIT_S = 30.0
"""For those before it; one that waits for longer is refused."""
RETRY_AFTER_S = 5.0
INLINE_CHARS = 4096
"""Up to this length texts are encoded, and as many tokens decoded, on the event loop: that takes
less than a switch."""
INLINE_LIMIT_S = 0.005
"""Processor time that a template may take there; one that takes more is rendered in a thread."""

T = TypeVar("T")


class Tokenizers:
    """Encodes prompts by the card that is given; a new card makes a new encoder.

    All calls that encode or decode raise `GatewayBusyError` where that takes long, and others of
    the model are before it for longer than the wait limit.

    Args:
        wait_limit_s: Of a call, for others; `MOST_WAIT_S` at most.
    """

    def __init__(self, reader: FleetReader, wait_limit_s: float = MOST_WAIT_S) -> None:
        self._wait_limit_s = min(wait_limit_s, MOST_WAIT_S)
        self._reader = reader
        self._encoders: dict[str, PromptEncoder] = {}
        self._texts: dict[str, TokenTexts] = {}
        self._building: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._long: dict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(LONG_AT_ONCE)
        )

    async def encode(self, card: ModelCard, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt.

        Raises:
            InvalidRequestError: The chat template refuses the messages, or nothing is left.
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        encoder, size = await self.encoder(card), _num_chars(prompt)
        if size <= INLINE_CHARS:
            # A template can take long over few words, or make many of them.
            with suppress(RenderingTooLongError):
                return encoder.encode(
                    prompt, time_limit_s=INLINE_LIMIT_S, max_chars=4 * INLINE_CHARS
                )
        return await self._in_thread(card.model, lambda: encoder.encode(prompt))

    async def encode_texts(
        self, card: ModelCard, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[list[int]]:
        """The token ids of each text as it is, without the chat template; none of an empty one.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        tokenizer = (await self.encoder(card)).tokenizer

        def encode() -> list[list[int]]:
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
            return [encoding.ids for encoding in encodings]

        return await self._run(card.model, encode, sum(map(len, texts)))

    async def encode_inputs(
        self, card: ModelCard, inputs: Sequence[Input]
    ) -> tuple[tuple[int, ...], ...]:
        """The token ids of an embedding job's inputs, which the model can run.

        Raises:
            InvalidRequestError: It cannot; see `common.embeddings.encode_inputs`.
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        check_count(inputs)
        tokenizer = (await self.encoder(card)).tokenizer
        size = sum(map(len, inputs))
        return await self._run(card.model, lambda: encode_inputs(card, tokenizer, inputs), size)

    async def decode(
        self, card: ModelCard, token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """The text of tokens.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        tokenizer = (await self.encoder(card)).tokenizer

        def decode() -> str:
            return tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

        return await self._run(card.model, decode, len(token_ids))

    async def texts(self, card: ModelCard) -> TokenTexts:
        """What each token of a model stands for.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        encoder = await self.encoder(card)
        texts = self._texts.get(card.model)
        if texts is None or texts.tokenizer is not encoder.tokenizer:
            texts = self._texts[card.model] = await asyncio.to_thread(TokenTexts, encoder.tokenizer)
        return texts

    async def _run(self, model: str, work: Callable[[], T], size: int) -> T:
        """Do short work at once, and long work in a thread."""
        if size <= INLINE_CHARS:
            return work()
        return await self._in_thread(model, work)

    async def _in_thread(self, model: str, work: Callable[[], T]) -> T:
        long = self._long[model]
        try:
            async with asyncio.timeout(self._wait_limit_s):
                await long.acquire()
        except TimeoutError:
            raise GatewayBusyError(
                f"Other long prompts for model '{model}' are before this one, for more than "
                f"{self._wait_limit_s:g} s; try again later.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        working = asyncio.ensure_future(asyncio.to_thread(work))
        # A thread goes on when its client has hung up, and has its place until it has ended.
        working.add_done_callback(lambda _: long.release())
        return await asyncio.shield(working)

    async def family(self, card: ModelCard) -> Family:
        """How the model writes calls; one that another server runs is told to do it our way.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        return (await self.encoder(card)).family if card.has_tokenizer else Family.GENERIC

    async def encoder(self, card: ModelCard) -> PromptEncoder:
        """The encoder of a card, which also knows how the model writes calls.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """
        encoder = self._encoders.get(card.model)
        if encoder is not None and encoder.card == card:
            return encoder
        async with self._building[card.model]:
            encoder = self._encoders.get(card.model)
            if encoder is None or encoder.card != card:
                assert card.tokenizer_sha256 is not None, "the caller asks `has_tokenizer` first"
                tokenizer_json = await self._reader.tokenizer(card.tokenizer_sha256)
                encoder = await asyncio.to_thread(PromptEncoder, card, tokenizer_json)
                self._encoders[card.model] = encoder
        return encoder


def _num_chars(prompt: Prompt) -> int:
    if prompt.tools or prompt.template_kwargs:
        return INLINE_CHARS + 1  # how much a template writes of them is not known
    contents = [message["content"] for message in prompt.messages or ()]
    return sum(len(text if isinstance(text, str) else str(text)) for text in contents) + len(
        prompt.text or ""
    )
