from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from api.token_texts import TokenTexts
from tests.fakes import byte_tokenizer

TOY = Path(__file__).parents[3] / "models" / "baton-toy" / "tokenizer.json"
BYTES = Tokenizer.from_str(byte_tokenizer())
TOY_TOKENIZER = Tokenizer.from_file(str(TOY))


def fallback_tokenizer() -> Tokenizer:
    """As Llama 2 and Mistral have it: words with their space in front, and bytes for the rest."""
    vocab = {"<unk>": 0, "▁dog": 1, "s": 2, "<0xC3>": 3, "<0xA9>": 4, "<0x>": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


@pytest.mark.parametrize("tokenizer", [BYTES, TOY_TOKENIZER])
@given(text=st.text(max_size=30))
def test_the_bytes_of_all_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    texts = TokenTexts(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(map(texts.bytes_of, ids)) == text.encode()


def test_byte_tokens_and_spaces_of_a_fallback_vocabulary_are_read() -> None:
    texts = TokenTexts(fallback_tokenizer())
    found = [texts.bytes_of(i) for i in (1, 2, 3, 4, 5)]
    assert found == [b" dog", b"s", b"\xc3", b"\xa9", b"<0x>"]


def test_a_special_token_is_known_by_its_name_and_is_no_text() -> None:
    texts = TokenTexts(fallback_tokenizer())
    assert texts.bytes_of(6) == b"</s>"
    assert texts.is_special(6)
    assert not texts.is_special(1)
    assert texts.decode([1, 2, 6]) == " dogs"


def test_an_id_without_a_token_has_no_bytes() -> None:
    assert TokenTexts(BYTES).bytes_of(99_999) == b""
