"""What litellm gets from the service, as JSON.

OPENAI_BASE_URL and OPENAI_API_KEY name the service, REFUSING_BASE_URL one that is over its rate.
"""

import json
import os
from typing import Literal

import litellm
import openai
from pydantic import BaseModel


class Animal(BaseModel):
    """An animal."""

    kind: Literal["dog", "cat", "bird"]
    age: int


PICK = {
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
CHAT = {
    "model": "openai/baton-toy",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
    "messages": [{"role": "user", "content": "What is Python?"}],
    "temperature": 0,
    "max_tokens": 60,
    "num_retries": 0,
    "max_retries": 0,
}


def class_of_the_error(**changes):
    """The class that a changed chat raises, and the status in it."""
    try:
        litellm.completion(**CHAT | changes)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code]
    return None


answer = litellm.completion(**CHAT)
chunks = list(litellm.completion(**CHAT, stream=True, stream_options={"include_usage": True}))
parsed = litellm.completion(**CHAT, response_format=Animal)
called = litellm.completion(
    **CHAT, tools=[PICK], tool_choice={"type": "function", "function": {"name": "pick"}}
)
[call] = called.choices[0].message.tool_calls
completed = litellm.text_completion(
    model="text-completion-openai/baton-toy",
    api_base=CHAT["api_base"],
    api_key=CHAT["api_key"],
    prompt="Once upon a time",
    temperature=0,
    max_tokens=10,
)
print(
    json.dumps(
        {
            "text": answer.choices[0].message.content,
            "finish_reason": answer.choices[0].finish_reason,
            "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
            "streamed_usage": [
                [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]
                for chunk in chunks
                if getattr(chunk, "usage", None)
            ][-1],
            "parsed": Animal.model_validate_json(parsed.choices[0].message.content).model_dump(),
            "called": [call.function.name, json.loads(call.function.arguments)],
            "completed": completed.choices[0].text,
            "errors": [
                class_of_the_error(api_key="no-such-key"),
                class_of_the_error(model="openai/no-such-model"),
                class_of_the_error(temperature=3),
                class_of_the_error(api_base=os.environ["REFUSING_BASE_URL"]),
                class_of_the_error(max_tokens=1_000_000),
            ],
        }
    )
)
