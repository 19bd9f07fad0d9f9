"""What Ollama is sent, and how what it says is read: its documented format, and no real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.grammar import GrammarSpec
from common.parameters import GRAMMARS, PROMPTS, SAMPLING
from common.sampling import SamplingSpec
from common.schemas import Prompt, TokenUsage
from worker.backends.ollama_answer import AnswerReader
from worker.backends.ollama_models import Shown, lengths_of, listed_of, shown_of, version_of
from worker.backends.ollama_request import request_of
from worker.backends.ollama_wire import NO_PENALTIES, OllamaWire
from worker.backends.wire import Ask, Durations, Piece, UpstreamFailure, UpstreamRefusal

CHAT = Prompt(messages=({"role": "user", "content": "hi"},))
RAW = Prompt(text="hi", raw=True)


def body_of(
    prompt: Prompt = RAW, own: tuple[str, ...] = (), num_ctx: int | None = None, **sampling: Any
) -> dict[str, Any]:
    spec = SamplingSpec(**({"max_tokens": 5, "time_limit_s": 60, "seed": 1} | sampling))
    return request_of(Ask("m", prompt, spec, 77, ""), own, num_ctx)[1]


def path_of(prompt: Prompt) -> str:
    spec = SamplingSpec(max_tokens=5, time_limit_s=60, seed=1)
    return request_of(Ask("m", prompt, spec, 77, ""), (), None)[0]


def read(*lines: Any, shows_thoughts: bool = True) -> list[Piece]:
    reader = AnswerReader(shows_thoughts=shows_thoughts)
    return [reader.piece_of(json.dumps(line)) for line in lines]


def text_of(*lines: Any, shows_thoughts: bool = True) -> str:
    return "".join(piece.text for piece in read(*lines, shows_thoughts=shows_thoughts))


def said(content: str = "", thinking: str = "") -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, "thinking": thinking}}


def test_every_option_has_ollamas_name() -> None:
    options = body_of(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=0.75,
        stop=("END",),
    )["options"]
    assert options == {
        "num_predict": 5,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 77,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.25,
        "frequency_penalty": 0.75,
        "repeat_last_n": -1,
        "stop": ["END"],
    }


def test_parts_of_a_message_are_told_as_one_text_for_ollama_takes_no_lists() -> None:
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    body = body_of(Prompt(messages=({"role": "user", "content": parts},)))
    assert body["messages"] == [{"role": "user", "content": "One.\nTwo."}]


def test_options_that_a_request_leaves_out_are_told_too_for_ollamas_defaults_are_others() -> None:
    options = body_of()["options"]
    assert (options["top_k"], options["min_p"], options["repeat_penalty"]) == (0, 0, 1)
    assert "stop" not in options


def test_no_nucleus_mass_is_told_as_greedy() -> None:
    options = body_of(top_p=0.0, temperature=0.9)["options"]
    assert (options["temperature"], options["top_p"]) == (0, 1)


def test_the_models_own_stop_texts_are_kept_beside_those_of_a_request() -> None:
    own = ("<|eot|>", "[INST]")
    assert "stop" not in body_of(own=own)["options"]
    found = body_of(own=own, stop=("END", "<|eot|>"))
    assert found["options"]["stop"] == ["END", "<|eot|>", "[INST]"]


def test_a_raw_prompt_goes_as_it_is_and_everything_else_as_a_chat() -> None:
    assert [path_of(RAW), path_of(CHAT)] == ["/api/generate", "/api/chat"]
    assert path_of(Prompt(text="hi")) == "/api/chat"
    assert body_of(Prompt(text="hi"))["messages"] == [{"role": "user", "content": "hi"}]
    raw = body_of(RAW)
    assert (raw["prompt"], raw["raw"]) == ("hi", True)


def test_prompts_are_not_to_be_cut_and_contexts_not_to_be_shifted() -> None:
    for prompt in (RAW, CHAT):
        body = body_of(prompt)
        assert (body["truncate"], body["shift"], body["stream"]) == (False, False, True)


def test_a_context_is_asked_for_where_the_operator_says_so() -> None:
    assert body_of(num_ctx=8192)["options"]["num_ctx"] == 8192
    assert "num_ctx" not in body_of()["options"]


def test_formats_are_json_or_a_schema() -> None:
    schema = '{"type": "object"}'
    assert body_of(CHAT, grammar=GrammarSpec("json_object", ""))["format"] == "json"
    found = body_of(CHAT, grammar=GrammarSpec("json_schema", schema))
    assert found["format"] == {"type": "object"}
    assert found["think"] is False


def test_thinking_is_left_to_the_model_but_where_the_request_says() -> None:
    kwargs = {"enable_thinking": False}
    assert "think" not in body_of(CHAT)
    assert body_of(Prompt(messages=CHAT.messages, template_kwargs=kwargs))["think"] is False
    assert body_of(RAW)["think"] is False


@pytest.mark.parametrize("kwargs", [{"colour": "red"}, {"enable_thinking": "much"}])
def test_other_template_arguments_are_refused_by_name(kwargs: dict[str, Any]) -> None:
    with pytest.raises(UpstreamRefusal, match=r"chat_template_kwargs.*(colour|much)"):
        body_of(Prompt(messages=CHAT.messages, template_kwargs=kwargs))


def test_an_empty_raw_prompt_is_refused_for_it_would_only_load_the_model() -> None:
    with pytest.raises(UpstreamRefusal, match="empty raw prompt"):
        body_of(Prompt(text="", raw=True))


def test_what_ollama_cannot_honour_is_not_among_its_parameters() -> None:
    honoured = OllamaWire().parameters("")
    assert {*SAMPLING, *GRAMMARS, *PROMPTS} - honoured == {
        *("ignore_eos", "min_tokens", "stop_token_ids", "logit_bias", "logprobs"),
        *("prompt_logprobs", "regex", "choice", "lark", "token_ids"),
    }
    older = OllamaWire().parameters(NO_PENALTIES)
    assert honoured - older == {"repetition_penalty", "presence_penalty", "frequency_penalty"}


def test_pieces_of_a_chat_and_of_a_raw_prompt_are_read() -> None:
    assert text_of(said("One "), said("two"), {"message": {"content": ""}, "done": False}) == (
        "One two"
    )
    assert text_of({"response": "One "}, {"response": "two"}) == "One two"


def test_the_end_has_reason_counts_and_durations_in_seconds() -> None:
    [end] = read(
        said()
        | {
            "done": True,
            "done_reason": "length",
            "prompt_eval_count": 26,
            "prompt_eval_duration": 130_079_000,
            "eval_count": 259,
            "eval_duration": 4_232_710_000,
        }
    )
    assert (end.finish_reason, end.usage) == ("length", TokenUsage(26, 259))
    assert end.durations == Durations(0.130079, 4.23271)


def test_an_end_without_counts_tells_none() -> None:
    [end] = read({"response": "", "done": True})
    assert (end.finish_reason, end.usage, end.durations) == ("stop", None, Durations(None, None))


def test_a_prompt_that_was_all_cached_may_have_no_count() -> None:
    [end] = read({"response": "", "done": True, "done_reason": "stop", "eval_count": 3})
    assert end.usage == TokenUsage(0, 3)


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_an_end_that_only_loads_is_a_failure(reason: str) -> None:
    with pytest.raises(UpstreamFailure, match="generated nothing"):
        read({"response": "", "done": True, "done_reason": reason})


def test_thoughts_come_before_the_answer_in_tags() -> None:
    lines = said(thinking="Let me "), said(thinking="see."), said("It is "), said("4.")
    assert text_of(*lines) == "<think>\nLet me see.\n</think>\n\nIt is 4."
    assert text_of(*lines, shows_thoughts=False) == "It is 4."


def test_an_error_within_an_answer_is_the_servers() -> None:
    with pytest.raises(UpstreamFailure, match="it says: the model runner has stopped"):
        read({"error": "the model runner has stopped"})


def test_an_error_never_tells_an_address() -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read({"error": 'Post "http://127.0.0.1:39213/completion": EOF'})
    assert "39213" not in caught.value.message


@pytest.mark.parametrize(
    "message",
    [
        "the input length exceeds the context length",
        "the prompt is longer than the context length currently available to the model",
        '{"error":{"code":400,"message":"request (9 tokens) exceeds the available context size"}}',
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_the_words_of_each_engine(message: str) -> None:
    with pytest.raises(UpstreamRefusal) as caught:
        read({"error": message})
    assert caught.value.is_too_long


@pytest.mark.parametrize("line", ["{", "[]", "7", "null", '{"message": 7}', "[" * 100_000])
def test_what_is_no_line_of_ollamas_is_the_servers_failure(line: str) -> None:
    with pytest.raises(UpstreamFailure, match="cannot be read"):
        AnswerReader(shows_thoughts=True).piece_of(line)


@pytest.mark.parametrize(("count", "is_cut"), [(30, False), (31, True)])
def test_an_answer_without_an_end_was_cut_where_it_said_the_same_ever_again(
    count: int, is_cut: bool
) -> None:
    reader = AnswerReader(shows_thoughts=True)
    for _ in range(count):
        reader.piece_of('{"response": " la"}')
    assert reader.is_cut_for_repeats == is_cut


def test_details_of_a_model_are_read() -> None:
    parameters = 'num_ctx        2048\nstop           "<|eot|>"\nstop           "\\n\\"x\\""'
    info = {"general.architecture": "llama", "llama.context_length": 8192, "x.context_length": 1}
    body = {"parameters": parameters, "model_info": info, "capabilities": ["completion", "tools"]}
    assert shown_of(body) == Shown(True, 8192, 2048, ("<|eot|>", '\n"x"'))
    assert shown_of({"capabilities": ["embedding"]}).generates is False
    assert shown_of({}) == Shown()


@pytest.mark.parametrize(
    ("wanted", "loaded", "own", "trained", "length"),
    [
        (None, None, None, None, None),
        (None, None, None, 8192, 8192),
        (None, None, 2048, 8192, 2048),
        (None, 4096, 2048, 8192, 4096),
        (1024, 4096, 2048, 8192, 1024),
        (65536, None, None, 8192, 8192),
        (1024, None, None, None, 1024),
    ],
)
def test_the_context_is_what_is_asked_for_or_loaded_or_set_or_trained(
    wanted: int | None, loaded: int | None, own: int | None, trained: int | None, length: int
) -> None:
    assert Shown(True, trained, own).context_length(wanted, loaded) == length


def test_versions_and_lists_are_read() -> None:
    assert version_of({"version": "0.12.6-rc1"}) == (0, 12, 6)
    assert version_of({"version": "built by me"}) == (0, 0, 0)
    [listed] = listed_of({"models": [{"name": "llama2:latest", "digest": "d"}]})
    assert (listed.id, listed.generates) == ("llama2", None)
    assert listed_of({"models": None}) == []
    assert lengths_of({"models": [{"name": "a:latest", "context_length": 9}, {"name": "b"}]}) == {
        "a": 9
    }
    assert lengths_of({}) == {}


@pytest.mark.parametrize("body", [None, [], {}, "ok"])
def test_what_is_no_ollama_server_is_away(body: Any) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        version_of(body)
    assert caught.value.is_away
    with pytest.raises(UpstreamFailure):
        listed_of(body)


def test_a_call_that_ollama_took_out_of_the_text_is_put_back() -> None:
    call = {"function": {"index": 0, "name": "look", "arguments": {"at": "é"}}}
    line = {"message": {"content": "", "tool_calls": [call]}}
    assert text_of(line) == (
        '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>'
    )
