"""Responses asked for and watched over plain HTTP, every event held to the SDK's own types."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.openai.responses.answers import ResponseAnswer
from tests.integration.api.openai.support import MODEL

RESPONSES = "/v1/responses"
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
    "strict": True,
}


class Events:
    """The events of one open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """The next one; StopAsyncIteration where the stream has ended."""
        name = None
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                event: dict[str, Any] = json.loads(value)
                assert event["type"] == name
                return checked(event)
            elif line:
                self.comments.append(line)
        raise StopAsyncIteration

    async def take(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]

    async def rest(self) -> list[dict[str, Any]]:
        """All that come still."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except StopAsyncIteration:
                return events


def checked(event: dict[str, Any]) -> dict[str, Any]:
    """The event, which OpenAI's types take as it is, and in which none of them misses a field."""
    parsed = _EVENT.validate_python(event)
    assert parsed.type == event["type"]
    if "response" in event:
        checked_body(event["response"])
    return event


def checked_body(body: dict[str, Any]) -> dict[str, Any]:
    """The body, held to ours and to OpenAI's types."""
    ResponseAnswer.model_validate(body)
    Response.model_validate(body)
    return body


async def ask(http: httpx.AsyncClient, given: Any = "Hello!", **fields: Any) -> dict[str, Any]:
    """Ask for a response; its body."""
    headers = fields.pop("headers", None)
    body = {"model": MODEL, "input": given, **fields}
    answer = await http.post(RESPONSES, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return checked_body(answer.json())


async def ask_in_background(http: httpx.AsyncClient, given: Any = "Hello!", **fields: Any) -> str:
    """Ask for a response in the background; its id."""
    return str((await ask(http, given, background=True, **fields))["id"])


async def get(http: httpx.AsyncClient, response_id: str) -> dict[str, Any]:
    answer = await http.get(f"{RESPONSES}/{response_id}")
    assert answer.status_code == 200, answer.text
    return checked_body(answer.json())


@asynccontextmanager
async def watching(
    http: httpx.AsyncClient, response_id: str, after: int | None = None
) -> AsyncIterator[Events]:
    params: dict[str, Any] = {"stream": "true"}
    if after is not None:
        params["starting_after"] = after
    async with http.stream("GET", f"{RESPONSES}/{response_id}", params=params) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)


@asynccontextmanager
async def streaming(
    http: httpx.AsyncClient, given: Any = "Hello!", **fields: Any
) -> AsyncIterator[Events]:
    body = {"model": MODEL, "input": given, "stream": True, **fields}
    async with http.stream("POST", RESPONSES, json=body) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)


async def all_events(
    http: httpx.AsyncClient, response_id: str, after: int | None = None
) -> list[dict[str, Any]]:
    """The events of a response that has ended, or will."""
    async with watching(http, response_id, after) as events, asyncio.timeout(20):
        return await events.rest()


def numbers(events: Sequence[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def text_of(events: Sequence[dict[str, Any]]) -> str:
    """The deltas of the text put together."""
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
