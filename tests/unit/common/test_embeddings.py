"""Inputs of embedding jobs: what they may be, and how records hold them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from common.embeddings import (
    MAX_INPUT_TOKENS,
    MAX_INPUTS,
    Embeddings,
    Input,
    count_tokens,
    encode_inputs,
)
from common.errors import ContextLengthError, InvalidRequestError
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobSpec, JobStatus, Outcome
from tests.fakes import byte_tokenizer, fake_card

CARD = fake_card(context_length=300)
TOKENIZER = Tokenizer.from_str(byte_tokenizer())
ADDED = {"status": "queued", "created_ms": "1", "attempts": "0", "eid": "0"}


def encode(*inputs: Input) -> tuple[tuple[int, ...], ...]:
    return encode_inputs(CARD, TOKENIZER, inputs)


def refusal(*inputs: Input) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        encode(*inputs)
    assert raised.value.param == "input"
    return raised.value.message


def test_texts_and_token_ids_may_be_mixed_and_keep_their_order() -> None:
    [text] = encode("ab")
    assert encode((5, 6), "ab", (7,)) == ((5, 6), text, (7,))


def test_texts_get_the_special_tokens_of_the_model_and_ids_do_not() -> None:
    tokenizer = Tokenizer.from_str(byte_tokenizer(begin="<s>"))
    card = fake_card()
    with pytest.raises(InvalidRequestError, match="got 256"):  # the card knows of 256 tokens
        encode_inputs(card, tokenizer, ["a"])
    assert encode_inputs(card, tokenizer, [(5,)]) == ((5,),)


def test_an_input_that_is_too_long_is_named_and_not_cut() -> None:
    with pytest.raises(ContextLengthError, match=r"input\[1\] has 301 tokens"):
        encode("a", "b" * 301)
    assert len(encode("b" * 300)[0]) == 300


def test_empty_inputs_are_named() -> None:
    assert refusal("a", "") == "input[1] is empty: expected at least one token."
    assert refusal((5,), (5,), ()) == "input[2] is empty: expected at least one token."


def test_there_are_bounds_on_inputs_and_tokens() -> None:
    assert "1 to 2048 inputs; got 0" in refusal()
    assert f"got {MAX_INPUTS + 1}" in refusal(*["a"] * (MAX_INPUTS + 1))
    long = tuple([5] * 300)
    assert f"at most {MAX_INPUT_TOKENS} tokens" in refusal(*[long] * 1001)
    assert len(encode(*[long] * 1000)) == 1000


def test_ids_of_no_token_are_named() -> None:
    assert refusal((5,), (5, 256)) == "input[1] must hold tokens of 'm', from 0 to 255; got 256."


def test_the_count_of_tokens_is_known_once_all_are_tokens() -> None:
    assert count_tokens(((1, 2), (3,))) == 3
    assert count_tokens(((1, 2), "a")) is None


@pytest.mark.parametrize("inputs", [((1, 2), (3,)), ("é", (3,)), ("a", "b")])
def test_a_record_holds_the_inputs(inputs: tuple[Input, ...]) -> None:
    sampling = SamplingSpec(max_tokens=0, time_limit_s=5, seed=0)
    spec = JobSpec("id", "k", "m", "low", sampling, "t", "r", inputs=inputs)
    record = JobRecord.from_fields("id", spec.to_fields() | ADDED)
    assert (record.inputs, record.prompt_tokens) == (inputs, count_tokens(inputs))
    assert (record.prompt, record.prompt_ids, record.embeddings) == (None, None, None)


def test_a_record_holds_the_vectors() -> None:
    found = Embeddings(2, "AACAPwAAgD8=")
    fields = Outcome(JobStatus.COMPLETED, prompt_tokens=3, embeddings=found).to_fields()
    assert fields["embeddings"] == "2 AACAPwAAgD8="
    sampling = SamplingSpec(max_tokens=0, time_limit_s=5, seed=0)
    spec = JobSpec("id", "k", "m", "low", sampling, "t", "r", inputs=((1, 2, 3),))
    record = JobRecord.from_fields("id", spec.to_fields() | ADDED | fields)
    assert record.embeddings == found
