"""From texts and messages to token ids, with a tokenizer of one token a byte."""

from __future__ import annotations

import pytest

from common.errors import ContextLengthError, InvalidRequestError
from common.prompt import PromptEncoder, fit, render_plain
from common.schemas import Prompt
from tests.fakes import byte_tokenizer, fake_card

SYSTEM = {"role": "system", "content": "You are helpful"}
HELLO = {"role": "user", "content": "Hello!"}
HI = {"role": "assistant", "content": "Hi there!"}
HOW = {"role": "user", "content": "How are you?"}


def encoder(chat_template: str | None) -> PromptEncoder:
    return PromptEncoder(fake_card(chat_template=chat_template), byte_tokenizer())


TEMPLATED = encoder("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]")
PLAIN = encoder(None)


def text_of(encoder: PromptEncoder, ids: tuple[int, ...]) -> str:
    return encoder.tokenizer.decode(list(ids))


def test_a_text_goes_through_the_models_template() -> None:
    assert text_of(TEMPLATED, TEMPLATED.encode(Prompt("hi"))) == "[user]hi[assistant]"


def test_a_raw_text_goes_as_it_is() -> None:
    assert text_of(TEMPLATED, TEMPLATED.encode(Prompt("hi", raw=True))) == "hi"


def test_a_model_without_a_template_takes_a_text_as_it_is() -> None:
    assert text_of(PLAIN, PLAIN.encode(Prompt("hi"))) == "hi"


def test_messages_of_a_model_without_a_template_get_the_plain_form() -> None:
    expected = (
        "System: You are helpful\n\nUser: Hello!\n\nAssistant: Hi there!\n\n"
        "User: How are you?\n\nAssistant:"
    )
    assert render_plain([SYSTEM, HELLO, HI, HOW]) == expected


def test_the_plain_form_refuses_an_unknown_role() -> None:
    with pytest.raises(InvalidRequestError, match="got 'robot'"):
        render_plain([{"role": "robot", "content": ""}])


def test_what_a_template_raises_is_the_clients_error() -> None:
    strict = encoder("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        strict.encode(Prompt("hi"))


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    hostile = encoder("{{ messages.__class__.__mro__ }}")
    with pytest.raises(InvalidRequestError):
        hostile.encode(Prompt("hi"))


def test_a_prompt_without_a_token_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at least one token"):
        PLAIN.encode(Prompt(""))


@pytest.mark.parametrize(("asked", "granted"), [(None, 40), (1, 1), (60, 60)])
def test_what_fits_is_granted(asked: int | None, granted: int) -> None:
    assert fit(fake_card(context_length=100), 40, asked, default=40) == granted


def test_a_default_is_cut_to_what_the_context_still_holds() -> None:
    assert fit(fake_card(context_length=100), 90, None, default=40) == 10


def test_a_least_number_of_tokens_raises_the_default():
    card = fake_card(context_length=100)
    assert fit(card, 40, None, default=20, min_tokens=30) == 30
    assert fit(card, 40, None, default=20, min_tokens=60) == 60
    assert fit(card, 40, 50, default=20, min_tokens=30) == 50


def test_a_least_number_of_tokens_that_does_not_fit_is_named_with_the_numbers():
    with pytest.raises(ContextLengthError) as raised:
        fit(fake_card(context_length=100), 40, None, default=20, min_tokens=61)
    assert raised.value.param == "min_tokens"
    assert "40 tokens and min_tokens is 61: 101 together" in raised.value.message
    assert "is 100." in raised.value.message


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthError, match=r"40 tokens and max_tokens is 61.*101.*100"):
        fit(fake_card(context_length=100), 40, 61, default=1)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(ContextLengthError, match=r"100 tokens.*100"):
        fit(fake_card(context_length=100), 100, None, default=1)
