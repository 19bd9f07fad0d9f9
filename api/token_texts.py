"""What each token of a model stands for, as bytes: exact where a token is a part of a character.

Knows nothing of spacing between tokens; all bytes put together are the text, but for a space that
some tokenizers put before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN_CHARS = len("<0xE2>")


def _bytes_by_char() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Source:
        Radford et al. 2019 (GPT-2): printable Latin-1 characters stand for themselves, the other
        bytes for U+0100 and up, in order.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    shifted = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in own} | shifted


_BYTES_BY_CHAR = _bytes_by_char()


class TokenTexts:
    """The bytes of one model's tokens. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        kinds = set(_decoder_kinds(tokenizer))
        self._is_byte_level = "ByteLevel" in kinds
        self._has_byte_tokens = "ByteFallback" in kinds
        self._is_word_piece = "WordPiece" in kinds

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of one token; none for an id without a token, which padded models have."""
        added = self._added.get(token_id)
        token = self.tokenizer.id_to_token(token_id)
        if added is not None or token is None:
            return b"" if added is None else added.content.encode()
        if self._is_byte_level and all(char in _BYTES_BY_CHAR for char in token):
            return bytes(_BYTES_BY_CHAR[char] for char in token)
        if self._has_byte_tokens and _is_byte_token(token):
            return bytes([int(token[3:5], 16)])
        if self._is_word_piece:
            return (token[2:] if token.startswith("##") else f" {token}").encode()
        return token.replace("▁", " ").encode()

    def is_special(self, token_id: int) -> bool:
        """Whether a token is no part of any text, as the end token."""
        added = self._added.get(token_id)
        return added is not None and added.special

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text


def _is_byte_token(token: str) -> bool:
    return len(token) == _BYTE_TOKEN_CHARS and token.startswith("<0x") and token.endswith(">")


def _decoder_kinds(tokenizer: Tokenizer) -> Iterator[str]:
    decoder: dict[str, Any] | None = json.loads(tokenizer.to_str())["decoder"]
    parts = [] if decoder is None else [decoder, *decoder.get("decoders", ())]
    for part in parts:
        yield part["type"]
