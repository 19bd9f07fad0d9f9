"""From texts and messages to token ids, with a tokenizer of one token a byte."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.chat_messages import normalize_messages
from common.chat_template import RenderingTooLongError
from common.errors import ContextLengthError, InvalidRequestError
from common.prompt import PromptEncoder, fit, render_plain
from common.schemas import Prompt
from common.tool_calls.families import Family
from common.tool_calls.parser import parse
from tests.fakes import byte_tokenizer, fake_card
from tests.unit.common.chat_templates import CHATML, GEMMA, LLAMA3

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
    with pytest.raises(
        ContextLengthError, match=r"100 tokens.*40 in the prompt and max_tokens is 61: 101"
    ):
        fit(fake_card(context_length=100), 40, 61, default=1)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(ContextLengthError, match=r"100 tokens.* 100 in the prompt,"):
        fit(fake_card(context_length=100), 100, None, default=1)


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
WITH_ANSWER = normalize_messages(
    [
        HELLO,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "a", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                {"id": "b", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "21"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "3"}]},
    ]
)


def test_a_template_that_reads_tools_gets_them() -> None:
    text = encoder(CHATML).render([HELLO], tools=[TOOL])
    assert '<tools>\n{"type": "function", "function": {"name": "weather"' in text


def test_a_template_of_a_known_family_gets_calls_and_answers_as_they_are() -> None:
    text = encoder(CHATML).render(WITH_ANSWER)
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}' in text
    assert "<|im_start|>user\n<tool_response>\n21\n</tool_response>\n<tool_response>\n3" in text


def test_the_template_for_tools_is_used_where_there_are_tools() -> None:
    card = replace(fake_card(chat_template="default"), tool_template="{{ tools[0] }}<tool_call>")
    both = PromptEncoder(card, byte_tokenizer())
    assert both.family is Family.HERMES
    assert both.render([HELLO]) == "default"
    assert "weather" in both.render([HELLO], tools=[TOOL])


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}{% endfor %}"])
def test_a_model_that_knows_no_tools_is_told_of_them_in_a_system_message(
    template: str | None,
) -> None:
    generic = encoder(template)
    text = generic.render([SYSTEM, HELLO], tools=[TOOL])
    assert generic.family is Family.GENERIC
    assert text.index("You are helpful\n\nYou can call functions.") < text.index("Hello!")
    assert '{"name": "weather", "parameters"' in text


def test_where_there_is_no_system_message_it_comes_first() -> None:
    text = PLAIN.render([HELLO], tools=[TOOL])
    assert text.startswith("System: You can call functions.")
    assert text.endswith("\n\nUser: Hello!\n\nAssistant:")


def test_where_no_system_message_may_be_the_first_user_message_begins_with_it() -> None:
    text = encoder(GEMMA).render([HELLO], tools=[TOOL])
    assert text.lstrip().startswith("<start_of_turn>user\nYou can call functions.")
    assert "Hello!<end_of_turn>" in text


def test_what_a_model_is_shown_of_its_calls_is_what_is_read_as_calls() -> None:
    said = PLAIN.render(WITH_ANSWER).split("Assistant: ")[1].split("\n\nUser:")[0]
    parsed = parse(said, Family.GENERIC)
    assert parsed.content == "Let me see.\n"
    assert [call.arguments for call in parsed.calls] == ['{"city": "Rome"}', '{"city": "Oslo"}']


def test_answers_to_one_message_are_one_turn_of_the_user() -> None:
    text = PLAIN.render(WITH_ANSWER)
    assert text.count("User:") == 2
    assert text.index('"content": "21"') < text.index('"content": "3"')


def test_parts_are_joined_in_the_plain_form() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert PLAIN.render([{"role": "user", "content": parts}]) == "User: a\nb\n\nAssistant:"


def test_a_prompts_tools_and_arguments_reach_the_template() -> None:
    prompt = Prompt(messages=(HELLO,), tools=(TOOL,), template_kwargs={"enable_thinking": False})
    text = text_of(encoder(CHATML), encoder(CHATML).encode(prompt))
    assert "weather" in text
    assert text.endswith("</think>\n\n")


def test_llamas_family_is_told_from_its_template() -> None:
    card = replace(fake_card(chat_template=LLAMA3), special_tokens={"bos_token": "<s>"})
    assert PromptEncoder(card, byte_tokenizer()).family is Family.LLAMA


def test_a_template_that_makes_more_text_than_was_asked_for_says_so() -> None:
    with pytest.raises(RenderingTooLongError):
        TEMPLATED.encode(Prompt("hi"), max_chars=5)
