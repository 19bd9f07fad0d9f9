"""OpenAI's own client, unmodified, with the real service and the bundled model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import openai as sdk
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.e2e.service import KEY, Service

MODEL = "baton-toy"
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about a little dog."}]


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key=KEY) as client:
        yield client


def test_a_chat_is_the_same_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": STORY, "max_tokens": 60, "seed": 3}
    whole = client.chat.completions.create(**asked)
    text = whole.choices[0].message.content
    assert text
    assert whole.usage is not None
    streamed, usage = "", None
    for chunk in client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        streamed += chunk.choices[0].delta.content or "" if chunk.choices else ""
        usage = chunk.usage or usage
    assert streamed == text
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_choices_differ_and_each_is_there(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=STORY, max_tokens=30, n=3, temperature=1.5, seed=1
    )
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3


def test_prompts_are_scored_as_evaluation_harnesses_do(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["Once upon a time", "One day"], echo=True, max_tokens=1, logprobs=1
    )
    for choice, prompt in zip(answer.choices, ["Once upon a time", "One day"], strict=True):
        logprobs = choice.logprobs
        assert choice.text.startswith(prompt)
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        first: Any = logprobs.token_logprobs[0]
        assert first is None
        assert all(value <= 0 for value in logprobs.token_logprobs[1:])
        assert "".join(logprobs.tokens or ()) == choice.text


def test_a_prompt_is_scored_without_generating_anything(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", echo=True, max_tokens=0, logprobs=2
    )
    [choice] = answer.choices
    assert choice.text == "Once upon a time"
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or ()) == choice.text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


class Animal(BaseModel):
    kind: Literal["dog", "cat", "bird"]
    age: int


def test_structured_output_is_parsed_into_a_pydantic_model(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=STORY, response_format=Animal, max_tokens=100, temperature=0
    )
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert parsed.kind in ("dog", "cat", "bird")


def test_a_forced_call_has_valid_arguments(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=STORY,
        max_tokens=100,
        temperature=0,
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "pick",
                    "parameters": {
                        "type": "object",
                        "properties": {"kind": {"enum": ["dog", "cat"]}},
                        "required": ["kind"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
        tool_choice={"type": "function", "function": {"name": "pick"}},
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "pick"
    assert json.loads(call.function.arguments)["kind"] in ("dog", "cat")


def test_the_raw_response_tells_the_request_and_the_rate(client: OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=STORY, max_tokens=5
    )
    assert response.request_id
    assert response.headers["x-ratelimit-remaining-requests"]
    assert response.parse().object == "chat.completion"


def test_a_streaming_response_can_be_read_line_by_line(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=STORY, max_tokens=5, stream=True
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_the_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_the_clients_own_classes(client: OpenAI, service: Service) -> None:
    with pytest.raises(sdk.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=10**6)
    with pytest.raises(sdk.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=STORY)
    with (
        OpenAI(base_url=f"{service.url}/v1", api_key="wrong") as stranger,
        pytest.raises(sdk.AuthenticationError),
    ):
        stranger.models.list()


def test_a_client_that_hangs_up_has_its_job_ended(client: OpenAI, service: Service) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=STORY,
        max_tokens=1000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    job_id = next(iter(stream)).id.removeprefix("chatcmpl-")
    stream.close()
    with service.http() as http:
        deadline_s = time.monotonic() + 30
        while http.get(f"/status/{job_id}").json()["status"] == "processing":
            assert time.monotonic() < deadline_s
        result = http.get(f"/result/{job_id}").json()
    assert result["status"] == "cancelled"
    assert result["num_generated"] < 1000


def test_logprobs_cover_the_text_before_a_stop_string_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 40, "temperature": 0}
    chat = asked | {"messages": STORY, "logprobs": True}
    free = client.chat.completions.create(**chat).choices[0]
    assert free.logprobs is not None
    tokens = [each.token for each in free.logprobs.content or ()]
    stop = "".join(tokens[5:8])[1:]  # from the middle of a token on
    before = "".join(tokens[:5]) + tokens[5][:1]
    whole = client.chat.completions.create(**chat, stop=stop)
    [choice] = whole.choices
    assert choice.message.content == before
    assert choice.logprobs is not None
    assert [each.token for each in choice.logprobs.content or ()] == tokens[:6]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    streamed: list[str] = []
    for chunk in client.chat.completions.create(**chat, stop=stop, stream=True):
        told = chunk.choices[0].logprobs
        streamed += [each.token for each in (told.content if told else None) or ()]
    assert streamed == tokens[:6]

    respond = asked | {"input": STORY, "include": ["message.output_text.logprobs"]}
    del respond["max_tokens"]
    response = client.responses.create(**respond, extra_body={"stop": stop})
    content: Any = response.output[0]
    assert [each.token for each in content.content[0].logprobs] == tokens[:6]

    prompt = asked | {"prompt": "Once upon a time", "logprobs": 0}
    listed = client.completions.create(**prompt).choices[0].logprobs
    assert listed is not None
    names = listed.tokens or []
    cut = client.completions.create(**prompt, stop="".join(names[4:6])).choices[0]
    assert cut.text == "".join(names[:4])
    assert cut.logprobs is not None
    assert cut.logprobs.tokens == names[:4]
    assert len(cut.logprobs.token_logprobs or ()) == len(cut.logprobs.text_offset or ()) == 4
