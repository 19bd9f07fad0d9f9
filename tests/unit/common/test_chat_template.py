"""Chat templates: as `transformers` renders them, and what they read."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from common.chat_template import STAND_INS, ChatTemplate, stand_in
from common.errors import InvalidRequestError, ModelLoadError
from tests.unit.common.chat_templates import (
    CHATML,
    GEMMA,
    GEMMA_PARTS,
    LLAMA3,
    MANY_FEATURES,
    MISTRAL,
    ONLY_PARTS,
    PHI,
)

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": " Be brief: \"<é>\" & 'ü'. "}
HI = {"role": "user", "content": "  Hi\n"}
HELLO = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"}
HOW = {"role": "user", "content": "How's the weather in Rome?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abc123456",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Rome", "days": [1, 2.5, None]}},
        }
    ],
}
ANSWER = {"role": "tool", "tool_call_id": "abc123456", "name": "weather", "content": '{"t": 21}'}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather <of> a "city".',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "gemma_parts": GEMMA_PARTS,
    "phi": PHI,
    "many features": MANY_FEATURES,
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [HI],
    "a system message": [SYSTEM, HI],
    "several turns": [HI, HELLO, HOW],
    "several turns and a system message": [SYSTEM, HI, HELLO, HOW],
    "a tool's answer": [HI, HELLO, HOW, CALL, ANSWER],
    "two from the user": [HI, HOW],
}


def theirs(source: str, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={}, merges=[])), chat_template=source, **TOKENS
    )
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **kwargs
    )
    return text


@pytest.mark.parametrize("tools", [None, [TOOL, TOOL]], ids=["no tools", "tools"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(
    name: str, conversation: str, tools: list[dict[str, Any]] | None
) -> None:
    source, messages = TEMPLATES[name], CONVERSATIONS[conversation]
    template = ChatTemplate(source, TOKENS)
    try:
        expected = theirs(source, messages, tools=tools)
    except (TemplateError, TypeError):
        with pytest.raises(InvalidRequestError):
            template.render(messages, tools=tools)
    else:
        assert template.render(messages, tools=tools) == expected


def test_a_templates_arguments_arrive() -> None:
    kwargs = {"enable_thinking": False}
    ours = ChatTemplate(CHATML, TOKENS).render([HI], kwargs=kwargs)
    assert ours == theirs(CHATML, [HI], **kwargs)
    assert ours.endswith("<think>\n\n</think>\n\n")


def test_documents_are_an_argument_like_others() -> None:
    template = ChatTemplate("{{ documents[0].title if documents is not none else 'none' }}")
    assert template.render([HI], kwargs={"documents": [{"title": "T"}]}) == "T"
    assert template.render([HI]) == "none"


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "raise_exception", "namespace", "range"]
)
def test_an_argument_cannot_take_the_place_of_what_templates_call(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"must not set '{name}'") as caught:
        ChatTemplate(CHATML).render([HI], kwargs={name: 1})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_messages_are_not_changed_by_a_rendering() -> None:
    before = repr(CALL)
    template = ChatTemplate("{% set _ = messages[0].update({'role': 'x'}) %}")
    with pytest.raises(InvalidRequestError):
        template.render([CALL])
    assert repr(CALL) == before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("\n\n{% if %}", "line 3 of the chat template"),
        ("{% for x in y %}", "line 1 of the chat template"),
        ("{{ x | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("{{ " + "(" * 5000 + " }}", "cannot be compiled"),
        ("{% if a %}" * 50 + "{% endif %}" * 50, ""),
        ("{% for a in b %}" * 50 + "{% endfor %}" * 50, "cannot be compiled"),
        ("x" * 300_000, "300,000 characters, 262,144 at most"),
    ],
)
def test_a_broken_template_is_a_models_error(source: str, says: str) -> None:
    if says:
        with pytest.raises(ModelLoadError, match=says):
            ChatTemplate(source)
    else:
        ChatTemplate(source)


def test_a_long_message_of_a_template_is_cut() -> None:
    template = ChatTemplate("{{ raise_exception('x' * 10000) }}")
    with pytest.raises(InvalidRequestError) as caught:
        template.render([HI])
    assert len(caught.value.message) < 600


PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        (CHATML, PARTS, "a\nb"),
        (GEMMA, PARTS, "a\nb"),
        (LLAMA3, PARTS, "a\nb"),
        (MISTRAL, PARTS, "a\nb"),
        (GEMMA_PARTS, PARTS, PARTS),
        (ONLY_PARTS, PARTS, PARTS),
        (GEMMA_PARTS, "a", "a"),
        (CHATML, "a", "a"),
        (ONLY_PARTS, "a", [{"type": "text", "text": "a"}]),
        ("{{ messages | tojson }}", PARTS, "a\nb"),
        ("{{ messages }}", PARTS, "a\nb"),
    ],
)
def test_a_content_gets_the_form_that_the_template_reads(
    source: str, content: Any, expected: Any
) -> None:
    template = ChatTemplate(source, TOKENS)
    (fitted,) = template.fitted([{"role": "user", "content": content}])
    assert fitted == {"role": "user", "content": expected}


@pytest.mark.parametrize(
    ("source", "reads"), [(CHATML, True), (GEMMA, False), (GEMMA_PARTS, True), (ONLY_PARTS, True)]
)
def test_whether_a_system_message_is_read_is_found_out(source: str, reads: bool) -> None:
    assert ChatTemplate(source, TOKENS).reads_system is reads


@pytest.mark.parametrize(
    ("source", "reads"), [(CHATML, True), (LLAMA3, True), (MISTRAL, True), (PHI, False)]
)
def test_whether_tools_are_read_is_found_out(source: str, reads: bool) -> None:
    assert ChatTemplate(source, TOKENS).reads_tools is reads


def llama3() -> ChatTemplate:
    source = stand_in(lambda token: token in STAND_INS["llama3"])
    assert source is not None
    return ChatTemplate(source)


def test_the_stand_in_for_llama_3_gives_its_form_to_the_character() -> None:
    messages = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": " Hello!\n"},
        {"role": "assistant", "content": "Hi there!"},
        {"role": "user", "content": "Who are you?"},
    ]
    assert llama3().render(messages) == (
        "<|begin_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\nYou are helpful.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n Hello!\n<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi there!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_stand_in_refuses_a_role_that_it_would_have_to_leave_out() -> None:
    with pytest.raises(InvalidRequestError, match="got 'tool'"):
        llama3().render([{"role": "tool", "content": "x"}])


def test_a_vocabulary_that_lacks_one_of_the_tokens_gets_no_stand_in() -> None:
    held = set(STAND_INS["llama3"]) - {"<|eot_id|>"}
    assert stand_in(lambda token: token in held) is None
