"""What a server with OpenAI's API is sent, and how what it says is read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.grammar import GrammarSpec
from common.sampling import SamplingSpec
from common.schemas import Prompt, TokenUsage
from worker.backends.http_errors import refusal_of
from worker.backends.openai_dialects import DIALECTS, dialect_of
from worker.backends.openai_wire import body_of, piece_of, response_format
from worker.backends.sse_reader import MAX_EVENT_CHARS, read_events
from worker.backends.surrogates import Surrogates
from worker.backends.wire import Ask, Durations, UpstreamFailure, UpstreamRefusal

CHAT = Prompt(messages=({"role": "user", "content": "hi"},))
RAW = Prompt(text="hi", raw=True)


def ask(prompt: Prompt = RAW, dialect: str = "vllm", **sampling: Any) -> Ask:
    spec = SamplingSpec(**({"max_tokens": 5, "time_limit_s": 60, "seed": 1} | sampling))
    return Ask("m", prompt, spec, 77, dialect)


def test_a_server_that_nobody_knows_is_sent_what_openai_takes_and_no_more() -> None:
    assert set(body_of(ask(dialect=""))) == {
        *("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stream"),
        *("stream_options", "presence_penalty", "frequency_penalty"),
    }


@pytest.mark.parametrize(("dialect", "every"), [("vllm", -1), ("sglang", -1), ("baton", 0)])
def test_all_tokens_are_kept_in_the_words_of_the_server(dialect: str, every: int) -> None:
    assert body_of(ask(dialect=dialect, top_k=0))["top_k"] == every
    assert body_of(ask(dialect=dialect, top_k=3))["top_k"] == 3


def test_a_parameter_has_the_name_that_the_server_knows() -> None:
    body = body_of(ask(dialect="llamacpp", repetition_penalty=1.1))
    assert body["repeat_penalty"] == 1.1
    assert "repetition_penalty" not in body


def test_openais_own_models_have_another_name_for_the_limit_of_a_chat() -> None:
    assert body_of(ask(CHAT, "openai"))["max_completion_tokens"] == 5
    assert body_of(ask(RAW, "openai"))["max_tokens"] == 5


def test_no_nucleus_mass_is_told_as_greedy() -> None:
    body = body_of(ask(top_p=0.0, temperature=0.9))
    assert (body["temperature"], body["top_p"]) == (0, 1)


def test_biases_are_told_by_tokens_as_texts() -> None:
    assert body_of(ask(logit_bias=((3, -1.5),)))["logit_bias"] == {"3": -1.5}


def test_parts_of_a_message_are_told_as_one_text() -> None:
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    body = body_of(ask(Prompt(messages=({"role": "user", "content": parts},))))
    assert body["messages"] == [{"role": "user", "content": "One.\nTwo."}]


def test_template_variables_go_on() -> None:
    prompt = Prompt(messages=CHAT.messages, template_kwargs={"thinking": False})
    assert body_of(ask(prompt))["chat_template_kwargs"] == {"thinking": False}


def test_a_schema_has_the_form_that_the_server_takes() -> None:
    grammar = GrammarSpec("json_schema", '{"type": "object"}')
    assert response_format(grammar, DIALECTS["me"]) == {
        "type": "json_object",
        "schema": {"type": "object"},
    }
    assert response_format(grammar, DIALECTS["vllm"])["type"] == "json_schema"


def test_a_format_for_a_raw_prompt_is_refused_where_the_server_has_none() -> None:
    with pytest.raises(UpstreamRefusal, match="response_format"):
        body_of(ask(RAW, "llamacpp", grammar=GrammarSpec("json_object")))


@pytest.mark.parametrize(
    ("owners", "dialect"),
    [
        (["vllm"], "vllm"),
        (["me"], "me"),
        (["openai", "system", "openai-internal"], "openai"),
        (["vllm", "me"], ""),
        (["library"], ""),
        ([None], ""),
        ([], ""),
    ],
)
def test_a_server_is_known_by_who_owns_its_models(owners: list[Any], dialect: str) -> None:
    assert dialect_of([{"id": "x", "owned_by": owner} for owner in owners]) == dialect


def test_a_chunk_of_a_chat_and_one_of_a_completion_are_read_alike() -> None:
    chat = {"choices": [{"delta": {"role": "assistant", "content": "a"}, "finish_reason": None}]}
    completion = {"choices": [{"text": "a", "finish_reason": None}]}
    assert piece_of(json.dumps(chat)) == piece_of(json.dumps(completion))
    assert piece_of(json.dumps(chat)).text == "a"


@pytest.mark.parametrize(
    ("told", "read"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("eos", "stop")],
)
def test_a_finish_reason_is_one_of_ours(told: str, read: str) -> None:
    chunk = {"choices": [{"delta": {}, "finish_reason": told}]}
    assert piece_of(json.dumps(chunk)).finish_reason == read


def test_usage_and_durations_are_read_where_they_are_told() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": None}
    details = {"prompt_tokens_details": {"cached_tokens": 2}}
    timings = {"prompt_ms": 250, "predicted_ms": 1500}
    piece = piece_of(json.dumps({"choices": [], "usage": usage | details, "timings": timings}))
    assert (piece.usage, piece.cached_tokens) == (TokenUsage(7, 5), 2)
    assert piece.durations == Durations(0.25, 1.5)
    assert piece_of(json.dumps({"choices": [], "usage": usage})).cached_tokens == 0


@pytest.mark.parametrize(
    "data",
    [
        *("", "7", "null", "[]", '"text"', "{", "[" * 100_000),
        *('{"choices": [3]}', '{"choices": [{"delta": {"content": 5}}]}'),
        '{"usage": {"completion_tokens": 1}}',
    ],
)
def test_what_no_such_server_says_is_a_failure_of_it(data: str) -> None:
    with pytest.raises(UpstreamFailure):
        piece_of(data)


def test_an_error_in_an_answer_is_the_requests_fault_or_the_servers() -> None:
    with pytest.raises(UpstreamRefusal, match="too hot"):
        piece_of('{"error": {"message": "too hot", "type": "invalid_request_error"}}')
    with pytest.raises(UpstreamFailure, match="engine_timeout"):
        piece_of('{"error": {"message": "x", "type": "timeout_error", "code": "engine_timeout"}}')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "why"}}, "why"),
        ({"error": "why"}, "why"),
        ({"detail": [{"msg": "why"}]}, '[{"msg": "why"}]'),
        ({"message": "why"}, "why"),
        ("why", "why"),
        (None, "it answered 400"),
    ],
)
def test_a_refusal_has_what_the_server_says_whatever_its_form(body: Any, message: str) -> None:
    assert refusal_of(body, 400).message == message


def test_a_refusal_is_cut_and_can_be_written_as_utf8() -> None:
    message = refusal_of({"error": {"message": "\ud83d" + "x" * 9999}}, 400).message
    assert len(message) == 500
    assert message.encode()


async def parts(*texts: bytes) -> AsyncIterator[bytes]:
    for text in texts:
        yield text


@pytest.mark.parametrize(
    "stream",
    [
        (b"data: a\n\n", b"data: b\n\n"),
        (b"data: a\r\n\r\ndata: b\r\n\r\n",),
        (b"da", b"ta: a\r", b"\n\r\n:beat\nevent: x\ndata:b\n", b"\n"),
        (b"data: a\n\ndata: b",),
    ],
)
async def test_events_are_read_however_they_are_cut(stream: tuple[bytes, ...]) -> None:
    assert [data async for data in read_events(parts(*stream)) if data] == ["a", "b"]


async def test_a_comment_is_a_sign_of_life() -> None:
    assert [data async for data in read_events(parts(b": beat\n\ndata: a\n\n"))] == ["", "a"]


async def test_what_json_may_hold_ends_no_line() -> None:
    text = "x\u2028y\x0bz\x85"
    found = [data async for data in read_events(parts(f"data: {text}\n\n".encode()))]
    assert found == [text]


async def test_a_character_that_is_cut_in_two_is_read_whole() -> None:
    whole = "data: é\n\n".encode()
    assert [data async for data in read_events(parts(whole[:7], whole[7:]))] == ["é"]


@pytest.mark.parametrize("lines", [b"data: " + b"x" * MAX_EVENT_CHARS, b"data: x\n" * (1 << 18)])
async def test_an_event_without_an_end_is_given_up(lines: bytes) -> None:
    with pytest.raises(UpstreamFailure, match="too long"):
        [data async for data in read_events(parts(lines, lines))]


def test_halves_of_a_character_are_joined_and_a_half_alone_is_replaced() -> None:
    surrogates = Surrogates()
    texts = [surrogates.join(text) for text in ("a\ud83d", "\ude00", "\ude00b", "é\ud83d")]
    assert [*texts, surrogates.rest()] == ["a", "😀", "\ufffdb", "é", "\ufffd"]
