from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from api.openai.answers import Chat
from tests.integration.api.openai.support import HELLO, MODEL, TextWorker

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


async def test_a_call_comes_with_an_id_and_its_arguments(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = {"model": MODEL, "messages": HELLO, "tools": TOOLS}
    asking = asyncio.create_task(live_http.post("/v1/chat/completions", json=body))
    await worker.answer(CALL)
    answer = (await asking).json()
    Chat.model_validate(answer)
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


async def test_a_streamed_call_is_put_together_by_the_sdk(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    async def ask() -> Any:
        async with openai.chat.completions.stream(
            model=MODEL, messages=HELLO, tools=TOOLS
        ) as stream:
            return await stream.get_final_completion()

    asking = asyncio.create_task(ask())
    claim = await worker.next()
    for part in ("Let me see.", CALL[:30], CALL[30:60], CALL[60:]):
        worker.tell(claim, part)
    worker.finish(claim)
    [choice] = (await asking).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    [call] = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


async def test_a_call_has_one_id_streamed_or_whole_and_a_repeat_has_it_too(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    headers = {"Idempotency-Key": "a"}
    body = {"model": MODEL, "messages": HELLO, "tools": TOOLS}
    asking = asyncio.create_task(live_http.post("/v1/chat/completions", json=body, headers=headers))
    await worker.answer(CALL)
    first = (await asking).json()
    again = (await live_http.post("/v1/chat/completions", json=body, headers=headers)).json()
    assert again == first


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
async def test_a_forced_call_is_a_grammar(
    live_http: httpx.AsyncClient, worker: TextWorker, choice: Any
) -> None:
    body = {"model": MODEL, "messages": HELLO, "tools": TOOLS, "tool_choice": choice}
    asking = asyncio.create_task(live_http.post("/v1/chat/completions", json=body))
    claim = await worker.answer(CALL)
    grammar = claim.record.sampling.grammar
    assert grammar is not None
    assert "get_weather" in grammar.text
    [answer] = (await asking).json()["choices"]
    assert answer["finish_reason"] == "tool_calls"


async def test_with_tool_choice_none_what_looks_like_a_call_is_text(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = {"model": MODEL, "messages": HELLO, "tools": TOOLS, "tool_choice": "none"}
    asking = asyncio.create_task(live_http.post("/v1/chat/completions", json=body))
    await worker.answer(CALL)
    [choice] = (await asking).json()["choices"]
    assert choice["message"]["content"] == CALL
    assert choice["finish_reason"] == "stop"


async def test_a_call_and_its_result_may_be_sent_back(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    body = {"model": MODEL, "messages": messages, "tools": TOOLS}
    asking = asyncio.create_task(live_http.post("/v1/chat/completions", json=body))
    await worker.answer("It is sunny.")
    [choice] = (await asking).json()["choices"]
    assert choice["message"]["content"] == "It is sunny."
    assert choice["finish_reason"] == "stop"
