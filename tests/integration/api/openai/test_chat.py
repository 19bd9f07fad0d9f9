from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from api.openai.answers import Chat
from common.connection import SyncRedis
from common.schemas import JobRecord
from common.settings import Settings
from tests.integration.api.openai.support import CARD, HELLO, MODEL, TextWorker, ids_of


async def chat(
    http: httpx.AsyncClient, worker: TextWorker, *texts: str, **fields: Any
) -> tuple[dict[str, Any], JobRecord]:
    """The body of an answer with these texts, and the job that it came from."""
    body = {"model": MODEL, "messages": HELLO, **fields}
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
    claim = await worker.answer(*(texts or ("hi",)))
    response = await asking
    assert response.status_code == 200, response.text
    return response.json(), claim.record


async def test_an_answer_has_openais_shape_and_our_performance(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body, record = await chat(live_http, worker, "Hello there")
    Chat.model_validate(body)
    assert ChatCompletion.model_validate(body).choices[0].message.content == "Hello there"
    assert body["id"] == f"chatcmpl-{record.job_id}"
    assert body["object"] == "chat.completion"
    assert body["created"] == record.created_ms // 1000
    assert body["model"] == MODEL
    assert body["system_fingerprint"].startswith("fp_")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    num_prompt = len("[user]Hello![assistant]")
    usage = body["usage"]
    assert usage["prompt_tokens"] == num_prompt
    assert usage["completion_tokens"] == 11
    assert usage["total_tokens"] == num_prompt + 11
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3
    assert body["performance"]["prefill_time_ms"] == 45
    assert body["performance"]["decode_time_ms"] == 123.5
    assert body["performance"]["batch_size"] == 2
    assert body["performance"]["queue_time_ms"] >= 0
    assert body["performance"]["tokens_per_second"] >= 0


async def test_the_sdk_reads_the_answer(openai: AsyncOpenAI, worker: TextWorker) -> None:
    asking = asyncio.create_task(openai.chat.completions.create(model=MODEL, messages=HELLO))
    await worker.answer("Hello", finish_reasons=["length"])
    answer = await asking
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_what_is_left_out_is_as_in_the_seed(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    _, record = await chat(live_http, worker)
    sampling = record.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 50)
    assert sampling.max_tokens == 512
    assert sampling.n == 1
    assert sampling.logprobs is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_k": 0, "min_p": 0.1}, {"top_k": 0, "min_p": 0.1}),
        ({"strategy": "greedy"}, {"temperature": 0.0}),
        ({"stop": "end"}, {"stop": ("end",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": 2**63 - 1}),
        ({"presence_penalty": 1.5, "frequency_penalty": -1}, {"presence_penalty": 1.5}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"logit_bias": {"5": -100}}, {"logit_bias": ((5, -100.0),)}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"min_tokens": 2, "ignore_eos": True}, {"min_tokens": 2, "ignore_eos": True}),
        ({"stop_token_ids": [1]}, {"stop_token_ids": (1,)}),
        ({"timeout": 5}, {"time_limit_s": 5.0}),
    ],
)
async def test_a_field_reaches_the_job(
    live_http: httpx.AsyncClient,
    worker: TextWorker,
    fields: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    _, record = await chat(live_http, worker, **fields)
    assert {name: getattr(record.sampling, name) for name in expected} == expected


async def test_fields_that_change_nothing_are_taken_and_null_is_as_left_out(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    taken: dict[str, Any] = {
        "store": True,
        "service_tier": "auto",
        "reasoning_effort": "low",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "user": "u-1",
        "metadata": {"a": "b"},
        "priority": "high",
        "response_format": {"type": "text"},
    }
    nulls = dict.fromkeys(
        [
            *("temperature", "top_p", "n", "stop", "seed", "max_tokens", "logprobs"),
            *("top_logprobs", "logit_bias", "stream", "stream_options", "tools", "tool_choice"),
            *("functions", "function_call", "audio", "presence_penalty", "top_k"),
        ]
    )
    _, record = await chat(live_http, worker, **taken, **nulls)
    assert record.user_id == "u-1"
    assert record.metadata == {"a": "b"}
    assert record.job_class == "high"


async def test_several_choices_are_one_job(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body, record = await chat(live_http, worker, "one", "two", "three", n=3)
    assert record.sampling.n == 3
    choices = [(c["index"], c["message"]["content"]) for c in body["choices"]]
    assert choices == [(0, "one"), (1, "two"), (2, "three")]
    assert body["usage"]["completion_tokens"] == 11


async def test_all_roles_and_parts_of_text_reach_the_template(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ann"},
        {"role": "assistant", "content": "Yes?", "refusal": None, "annotations": []},
        {"role": "user", "content": "Go on"},
    ]
    _, record = await chat(live_http, worker, messages=messages)
    text = "[system]Be brief.[user]Hi[assistant]Yes?[user]Go on[assistant]"
    assert record.prompt_ids == ids_of(text)


async def test_logprobs_tell_tokens_bytes_and_the_likeliest(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body, _ = await chat(live_http, worker, "aé", logprobs=True, top_logprobs=2)
    [choice] = ChatCompletion.model_validate(body).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert [each.token for each in content] == ["a", r"\xc3", r"\xa9"]
    assert b"".join(bytes(each.bytes or ()) for each in content).decode() == "aé"
    [a] = ids_of("a")
    assert content[0].logprob == -a / 256
    assert [top.logprob for top in content[0].top_logprobs] == [-1.0, -2.0]
    Chat.model_validate(body)


class Animal(BaseModel):
    kind: str
    age: int


async def test_a_pydantic_model_comes_back_parsed(openai: AsyncOpenAI, worker: TextWorker) -> None:
    parsing = asyncio.create_task(
        openai.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Animal)
    )
    claim = await worker.answer('{"kind": "dog", "age": 3}')
    answer = await parsing
    assert answer.choices[0].message.parsed == Animal(kind="dog", age=3)
    grammar = claim.record.sampling.grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"
    assert '"additionalProperties":false' in grammar.text


async def test_a_job_from_before_the_models_card_is_answered_too(
    live_http: httpx.AsyncClient, client: SyncRedis, settings: Settings
) -> None:
    worker = TextWorker(client, settings)
    body = {"model": MODEL, "messages": HELLO}
    asking = asyncio.create_task(live_http.post("/v1/chat/completions", json=body))
    claim = await worker.next()
    assert claim.record.prompt_ids is None
    worker.publish(CARD)
    worker.tell(claim, "hi")
    worker.finish(claim)
    assert (await asking).json()["choices"][0]["message"]["content"] == "hi"
