"""Turn token ids into text one id at a time, never splitting a character.

`TokenTable` is what a tokenizer knows, shared by all sequences of a model;
`Detokenizer` is the small state of one sequence. Neither knows about stop
strings or about where a sequence ends.

Two kinds of token occur. Some stand for raw bytes: all of a byte-level
vocabulary, and the `<0xE2>` tokens of a byte-fallback one. They run through an
incremental UTF-8 decoder, which is exact. The others are whole characters whose
spacing depends on what stands before them, so they are decoded together with
the token before.
"""

import codecs
import json
from collections.abc import Sequence

from tokenizers import Tokenizer

CONTEXT_TOKENS = 4
"""Prompt tokens looked at for the spacing of the first completion token."""


def _byte_alphabet() -> dict[str, int]:
    """Map each character of a byte-level vocabulary to the byte that it stands for.

    Source:
        Radford et al. 2019 (GPT-2): printable Latin-1 characters stand for
        themselves, the other bytes for U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_alphabet()


class TokenTable:
    """Look up what each token id of one tokenizer stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Read the decoder's kind and the special tokens.

        Args:
            tokenizer: The fast tokenizer's own backend. This operation will not modify it.
        """
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        kinds = _decoder_kinds(tokenizer)
        self._is_byte_level = "ByteLevel" in kinds
        self._fallback_bytes: dict[int, bytes] = {}
        if "ByteFallback" in kinds:
            for byte in range(256):
                token_id = tokenizer.token_to_id(f"<0x{byte:02X}>")
                if token_id is not None:
                    self._fallback_bytes[token_id] = bytes([byte])

    def is_special(self, token_id: int) -> bool:
        """Whether the id has no text of its own."""
        return token_id in self._special_ids

    def bytes_of(self, token_id: int) -> bytes | None:
        """Return the bytes that an id stands for, or None where its text needs context."""
        if not self._is_byte_level:
            return self._fallback_bytes.get(token_id)
        token = self._tokenizer.id_to_token(token_id)
        if token is None:  # an embedding row past the vocabulary's end
            return b""
        if all(char in _BYTE_OF_CHAR for char in token):
            return bytes(_BYTE_OF_CHAR[char] for char in token)
        return token.encode()  # an added token, written as it is

    def decode(self, token_ids: Sequence[int], *, skips_special: bool) -> str:
        """Decode several ids together, with special ones or without."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skips_special)


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    if tokenizer.decoder is None:
        return set()
    state = json.loads(tokenizer.decoder.__getstate__())
    return {step["type"] for step in state.get("decoders", [state])}


class Detokenizer:
    """Decode the completion of one sequence as its ids arrive."""

    def __init__(
        self, table: TokenTable, prompt_ids: Sequence[int], *, skips_special: bool = True
    ) -> None:
        """Start after a prompt.

        Args:
            table: The model's tokens.
            prompt_ids: Only their end is kept, for the spacing of the first token.
            skips_special: Whether special tokens have no text.
        """
        self._table = table
        self._skips_special = skips_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        tail = prompt_ids[-CONTEXT_TOKENS:]
        self._context = [i for i in tail if not table.is_special(i) and table.bytes_of(i) is None]

    def push(self, token_id: int) -> str:
        """Take one id and return the text that is now certain, perhaps none."""
        if self._table.is_special(token_id):
            return "" if self._skips_special else self.flush() + self._push_piece(token_id)
        token_bytes = self._table.bytes_of(token_id)
        if token_bytes is not None:
            return self._utf8.decode(token_bytes)
        return self.flush() + self._push_piece(token_id)

    def flush(self) -> str:
        """Return what is left of an unfinished character, as U+FFFD."""
        return self._utf8.decode(b"", final=True)

    def _push_piece(self, token_id: int) -> str:
        skips_special = self._skips_special
        before = self._table.decode(self._context, skips_special=skips_special)
        after = self._table.decode([*self._context, token_id], skips_special=skips_special)
        self._context = [token_id]
        return after[len(before) :]
