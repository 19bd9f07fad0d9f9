"""OpenAI's own client, as it is, at `/v1/responses`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import Response
from pydantic import BaseModel

from tests.integration.api.openai.responses_support import CALL, TOOL
from tests.integration.api.openai.support import MODEL, TextWorker

WORDS = ["Once ", "upon ", "a ", "time."]


class Person(BaseModel):
    name: str
    age: int


class GetWeather(BaseModel):
    city: str


async def tell(worker: TextWorker, *texts: str) -> None:
    claim = await worker.next()
    for text in texts:
        worker.tell(claim, text)
    worker.finish(claim)


async def test_create_waits_for_the_text(openai: AsyncOpenAI, worker: TextWorker) -> None:
    asking = asyncio.create_task(openai.responses.create(model=MODEL, input="Hello!"))
    await tell(worker, *WORDS)
    response = await asking
    assert response.output_text == "Once upon a time."
    assert response.usage is not None
    assert response.usage.output_tokens == len("Once upon a time.")
    assert (await openai.responses.retrieve(response.id)) == response


async def test_create_streams(openai: AsyncOpenAI, worker: TextWorker) -> None:
    async def ask() -> list[Any]:
        stream = await openai.responses.create(model=MODEL, input="Hello!", stream=True)
        return [event async for event in stream]

    asking = asyncio.create_task(ask())
    await tell(worker, *WORDS)
    events = await asking
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == WORDS
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Once upon a time."


async def test_the_streaming_helper_puts_a_response_together(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    async def ask() -> Response:
        async with openai.responses.stream(model=MODEL, input="Hello!", tools=[TOOL]) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    assert event.snapshot.endswith(event.delta)
            return await stream.get_final_response()

    asking = asyncio.create_task(ask())
    await tell(worker, "Let me ", "see.", CALL[:30], CALL[30:])
    message, call = (await asking).output
    assert message.content[0].text == "Let me see."
    assert json.loads(call.arguments) == {"city": "Paris"}


async def test_a_background_response_is_polled(openai: AsyncOpenAI, worker: TextWorker) -> None:
    response = await openai.responses.create(model=MODEL, input="Hello!", background=True)
    assert response.status == "queued"
    telling = asyncio.create_task(tell(worker, *WORDS))
    while response.status in ("queued", "in_progress"):
        response = await openai.responses.retrieve(response.id)
    await telling
    assert response.status == "completed"
    assert response.output_text == "Once upon a time."


async def test_a_background_stream_is_taken_up_by_its_cursor(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    stream = await openai.responses.create(
        model=MODEL, input="Hello!", background=True, stream=True
    )
    claim = await worker.next()
    text, cursor, response_id = "", None, None
    worker.tell(claim, WORDS[0])
    async for event in stream:
        cursor = event.sequence_number
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_text.delta":
            text += event.delta
            break
    await stream.close()
    assert response_id is not None
    for word in WORDS[1:]:
        worker.tell(claim, word)
    worker.finish(claim)
    rest = await openai.responses.retrieve(response_id, stream=True, starting_after=cursor)
    async for event in rest:
        assert event.sequence_number == cursor + 1
        cursor = event.sequence_number
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == "Once upon a time."
    assert event.response == await openai.responses.retrieve(response_id)

    # The helper reads from the start, and shows what comes after.
    async with openai.responses.stream(response_id=response_id, starting_after=5) as helper:
        shown = [event.sequence_number async for event in helper]
        final = await helper.get_final_response()
    assert shown == list(range(6, cursor + 1))
    assert final.output_text == "Once upon a time."


async def test_cancel_delete_and_input_items(openai: AsyncOpenAI, worker: TextWorker) -> None:
    response = await openai.responses.create(
        model=MODEL, input=[{"role": "user", "content": str(i)} for i in range(3)], background=True
    )
    cancelled = await openai.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    items = openai.responses.input_items.list(response.id, limit=2, order="asc")
    assert [item.content[0].text async for item in items] == ["0", "1", "2"]
    await openai.responses.delete(response.id)
    with pytest.raises(NotFoundError):
        await openai.responses.retrieve(response.id)


async def test_parse_gives_a_model_of_pydantic(openai: AsyncOpenAI, worker: TextWorker) -> None:
    asking = asyncio.create_task(
        openai.responses.parse(model=MODEL, input="Who?", text_format=Person)
    )
    claim = await worker.answer('{"name": "Ann", "age": 7}')
    assert json.loads(claim.record.sampling.grammar.text)["title"] == "Person"
    assert (await asking).output_parsed == Person(name="Ann", age=7)


async def test_a_call_is_parsed_and_its_result_sent_back(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    given: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    tools: list[Any] = [TOOL]
    asking = asyncio.create_task(openai.responses.parse(model=MODEL, input=given, tools=tools))
    await tell(worker, CALL)
    [call] = (await asking).output
    assert call.type == "function_call"
    assert GetWeather.model_validate(call.parsed_arguments).city == "Paris"
    given += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    asking = asyncio.create_task(openai.responses.create(model=MODEL, input=given, tools=tools))
    await tell(worker, "It is sunny.")
    assert (await asking).output_text == "It is sunny."


async def test_a_conversation_by_the_earlier_responses_id(
    openai: AsyncOpenAI, worker: TextWorker
) -> None:
    asking = asyncio.create_task(openai.responses.create(model=MODEL, input="One"))
    await tell(worker, "Two")
    first = await asking
    asking = asyncio.create_task(
        openai.responses.create(model=MODEL, input="Three", previous_response_id=first.id)
    )
    await tell(worker, "Four")
    second = await asking
    assert second.previous_response_id == first.id
    items = openai.responses.input_items.list(second.id, order="asc")
    assert [item.content[0].text async for item in items] == ["One", "Two", "Three"]
    await openai.responses.delete(first.id)
    with pytest.raises(BadRequestError) as raised:
        await openai.responses.create(model=MODEL, input="a", previous_response_id=first.id)
    assert raised.value.param == "previous_response_id"
