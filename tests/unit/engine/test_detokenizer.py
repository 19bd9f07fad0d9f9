"""Text comes as soon as it is certain, and never in half characters."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from worker.engine.detokenizer import Detokenizer, TokenTable

PIECES = ["<unk>", "<s>", "</s>", "▁", "▁the", "▁quick", "er", "é", "世", ","]


@pytest.fixture
def sentencepiece():
    """A byte-fallback vocabulary with spaces at the front of words, as Llama 2 has it."""
    names = [*PIECES, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)}, merges=[], byte_fallback=True
        )
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def ids_of(backend, *tokens):
    return [backend.token_to_id(token) for token in tokens]


def run(backend, ids, prompt=(), **options):
    detokenizer = Detokenizer(TokenTable(backend), prompt, **options)
    return [detokenizer.push(token_id) for token_id in ids], detokenizer.flush()


def test_a_character_in_several_tokens_comes_whole_with_its_last_byte(tokenizer):
    backend = tokenizer.backend_tokenizer
    ids = ids_of(backend, "a", *"ðŁĻĤ", "b")  # the four bytes of a smiley
    assert run(backend, ids) == (["a", "", "", "", "🙂", "b"], "")


def test_text_before_an_unfinished_character_is_not_held_back():
    backend = Tokenizer(models.BPE(vocab={"abÃ": 0, "©c": 1}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    assert run(backend, [0, 1]) == (["ab", "éc"], "")


def test_what_is_left_of_a_character_is_flushed_as_one_replacement(tokenizer):
    backend = tokenizer.backend_tokenizer
    assert run(backend, ids_of(backend, "a", *"ðŁĻ")) == (["a", "", "", ""], "\ufffd")


def test_special_tokens_have_no_text(tokenizer):
    backend = tokenizer.backend_tokenizer
    ids = ids_of(backend, "a", "<eos>", "Ã", "<pad>", "©")
    assert run(backend, ids) == (["a", "", "", "", "é"], "")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "aé"


def test_an_id_beyond_the_vocabulary_has_no_text(tokenizer, sentencepiece):
    assert run(tokenizer.backend_tokenizer, [5000]) == ([""], "")
    assert run(sentencepiece, [5000]) == ([""], "")


def test_an_added_token_is_written_as_it_is(tokenizer):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_tokens([AddedToken("<tool call>", special=False)])
    added = backend.token_to_id("<tool call>")
    assert run(backend, [added]) == (["<tool call>"], "")


@pytest.mark.parametrize("skips_special", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_random_ids_give_the_tokenizers_own_text(tokenizer, seed, skips_special):
    rng = random.Random(seed)
    ids = [rng.randrange(len(tokenizer)) for _ in range(60)] + [0, 5, 1]
    texts, tail = run(tokenizer.backend_tokenizer, ids, skips_special=skips_special)
    assert "".join(texts) + tail == tokenizer.decode(ids, skip_special_tokens=skips_special)


def test_special_tokens_are_written_where_that_is_asked_for(sentencepiece):
    ids = ids_of(sentencepiece, "<s>", "▁the", "</s>", "▁quick", "<0xF0>", "<s>", "er")
    texts, _ = run(sentencepiece, ids, skips_special=False)
    assert texts == ["<s>", " the", "</s>", " quick", "", "\ufffd<s>", "er"]


def test_no_prefix_of_valid_text_ever_shows_a_replacement_character(tokenizer):
    ids = tokenizer.encode("grüße, 世界 🙂🙂 ß世 the fox")
    texts, tail = run(tokenizer.backend_tokenizer, ids)
    assert "\ufffd" not in "".join(texts)
    assert ("".join(texts), tail) == ("grüße, 世界 🙂🙂 ß世 the fox", "")


def test_spaces_in_front_of_words_are_kept(sentencepiece):
    ids = ids_of(sentencepiece, "▁the", "▁quick", "er", ",", "▁the")
    texts, tail = run(sentencepiece, ids)
    assert texts == ["the", " quick", "er", ",", " the"]
    assert "".join(texts) + tail == sentencepiece.decode(ids)


def test_the_first_space_follows_from_the_prompt(sentencepiece):
    prompt = ids_of(sentencepiece, "<s>", "▁the")
    ids = ids_of(sentencepiece, "▁quick", "er")
    assert run(sentencepiece, ids, prompt) == ([" quick", "er"], "")


def test_byte_fallback_tokens_make_whole_characters(sentencepiece):
    smiley = [f"<0x{byte:02X}>" for byte in "🙂".encode()]
    ids = ids_of(sentencepiece, "▁the", *smiley, *smiley, "▁quick")
    texts, tail = run(sentencepiece, ids)
    assert texts == ["the", "", "", "", "🙂", "", "", "", "🙂", " quick"]
    assert "".join(texts) + tail == sentencepiece.decode(ids)


def test_a_character_that_byte_fallback_leaves_unfinished_comes_before_the_next_piece(
    sentencepiece,
):
    ids = ids_of(sentencepiece, "▁the", "<0xF0>", "<0x9F>", "▁quick")
    assert run(sentencepiece, ids) == (["the", "", "", "\ufffd quick"], "")


def test_words_of_a_tokenizer_without_a_decoder_are_parted_by_spaces():
    backend = Tokenizer(models.WordLevel({"the": 0, "fox": 1, "<unk>": 2}, unk_token="<unk>"))
    assert run(backend, [0, 1, 0]) == (["the", " fox", " the"], "")
