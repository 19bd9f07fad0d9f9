"""Messages as clients send them: what becomes of them, and what is wrong with the others."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from common.chat_messages import normalize_messages
from common.errors import InvalidRequestError

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "21"}


def one(message: dict[str, Any]) -> dict[str, Any]:
    (normal,) = normalize_messages([message])
    return normal


def with_call(**changed: Any) -> list[dict[str, Any]]:
    return [USER, {**CALLING, "tool_calls": [{**CALL, **changed}]}]


def with_function(**changed: Any) -> list[dict[str, Any]]:
    return with_call(function={"name": "f", "arguments": "{}", **changed})


def test_a_plain_conversation_stays_as_it_is() -> None:
    messages = [{"role": "system", "content": ""}, USER, {"role": "assistant", "content": "Hello"}]
    assert list(normalize_messages(messages)) == messages


def test_developer_is_system() -> None:
    assert one({"role": "developer", "content": "x"}) == {"role": "system", "content": "x"}


def test_arguments_become_objects_and_answers_get_their_functions_name() -> None:
    messages = [USER, CALLING, ANSWER]
    before = deepcopy(messages)
    _, calling, answer = normalize_messages(messages)
    assert calling["content"] == ""
    assert calling["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": [1]}}
    assert answer == {"role": "tool", "content": "21", "tool_call_id": "c1", "name": "f"}
    assert messages == before


def test_arguments_that_are_an_empty_text_are_none() -> None:
    _, calling = normalize_messages(with_function(arguments=""))
    assert calling["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_gets_the_name_that_templates_read(field: str) -> None:
    message = one({"role": "assistant", "content": "x", field: "hm"})
    assert message["reasoning_content"] == "hm"


def test_an_answer_of_ours_can_be_sent_back_as_it_came() -> None:
    answer = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert one(answer) == {"role": "assistant", "content": "x"}


def test_text_parts_stay_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert one({"role": "user", "content": parts})["content"] == parts


IMAGE = {"type": "image_url", "image_url": {"url": "http://x"}}
TEXT = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("messages", "param", "says"),
    [
        (None, "messages", "a list of at least one message; got nothing"),
        ([], "messages", "a list of at least one message; got an empty list"),
        ("Hi", "messages", "got 'Hi'"),
        ([USER] * 5000, "messages", "at most 4096"),
        (["Hi"], "messages[0]", "must be an object"),
        ([{"content": "x"}], "messages[0].role", "system, developer, user, assistant, tool"),
        ([{"role": "robot", "content": "x"}], "messages[0].role", "got 'robot'"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role", "got a list"),
        ([USER, {"role": "user"}], "messages[1].content", "got nothing"),
        ([{"role": "user", "content": None}], "messages[0].content", "got nothing"),
        ([{"role": "user", "content": 3}], "messages[0].content", "got a number"),
        ([{"role": "user", "content": []}], "messages[0].content", "got an empty list"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content", "valid Unicode"),
        ([{"role": "assistant", "content": None}], "messages[0].content", "beside tool_calls"),
        ([{"role": "user", "content": [TEXT, IMAGE]}], "messages[0].content[1]", "'image_url'"),
        (
            [{"role": "user", "content": [{"type": "input_audio"}]}],
            "messages[0].content[0]",
            "reads text only",
        ),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]", "must be a part"),
        ([{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type", "'text'"),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "messages[0].content[0].text",
            "must be a text; got nothing",
        ),
        (
            [{"role": "user", "content": [{**TEXT, "x": 1}]}],
            "messages[0].content[0].x",
            "not a field",
        ),
        ([{**USER, "tool_calls": [CALL]}], "messages[0].tool_calls", "role 'user'"),
        ([{**USER, "x": 1}], "messages[0].x", "not a field"),
        ([{**USER, "name": 1}], "messages[0].name", "must be a text"),
        ([{**CALLING, "tool_calls": {}}], "messages[0].tool_calls", "a list of calls"),
        (with_call(id=None), "messages[1].tool_calls[0].id", "got nothing"),
        (with_call(type="x"), "messages[1].tool_calls[0].type", "'function'"),
        (with_call(function=None), "messages[1].tool_calls[0].function", "an object"),
        (with_function(name=1), "messages[1].tool_calls[0].function.name", "a text"),
        (with_function(arguments="{"), "messages[1].tool_calls[0].function.arguments", "JSON"),
        (
            with_function(arguments="[" * 5000),
            "messages[1].tool_calls[0].function.arguments",
            "valid JSON",
        ),
        (
            with_function(arguments='{"a":' * 70 + "1" + "}" * 70),
            "messages[1].tool_calls[0].function.arguments",
            "64 levels",
        ),
        (
            with_function(arguments='{"a": NaN}'),
            "messages[1].tool_calls[0].function.arguments",
            "valid JSON",
        ),
        (
            with_function(arguments="[1]"),
            "messages[1].tool_calls[0].function.arguments",
            "a JSON object",
        ),
        (with_function(arguments={}), "messages[1].tool_calls[0].function.arguments", "a text"),
        ([USER, ANSWER], "messages[1].tool_call_id", "got 'c1'"),
        (
            [CALLING, {"role": "tool", "content": "x"}],
            "messages[1].tool_call_id",
            "must be a text",
        ),
    ],
)
def test_what_is_wrong_is_named_to_the_leaf(messages: Any, param: str, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        normalize_messages(messages)
    assert caught.value.param == param
    assert says in caught.value.message
    assert caught.value.message.startswith(param)
