"""What LangChain gets from the service, as JSON.

OPENAI_BASE_URL and OPENAI_API_KEY name the service, REFUSING_BASE_URL one that is over its rate.
"""

import json
import os
from typing import Literal

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

CHAT = {"model": "baton-toy", "temperature": 0, "max_tokens": 60, "max_retries": 0}
QUESTION = "What is Python?"
CLASSES = (
    ContextOverflowError,
    openai.AuthenticationError,
    openai.NotFoundError,
    openai.BadRequestError,
    openai.RateLimitError,
)


class Animal(BaseModel):
    """An animal."""

    kind: Literal["dog", "cat", "bird"]
    age: int


@tool
def pick(kind: Literal["dog", "cat"]) -> str:
    """Pick an animal."""
    return kind


def class_of_the_error(**changes):
    """The class that a changed chat raises, and the status in it."""
    try:
        ChatOpenAI(**CHAT | changes).invoke(QUESTION)
    except openai.APIStatusError as error:
        # LangChain derives its own from OpenAI's.
        return [
            next(kind for kind in CLASSES if isinstance(error, kind)).__name__,
            error.status_code,
        ]
    return None


model = ChatOpenAI(**CHAT)
answer = model.invoke(QUESTION)
chunks = list(model.stream(QUESTION, stream_usage=True))
[call] = model.bind_tools([pick], tool_choice="pick").invoke(QUESTION).tool_calls
parsed = model.with_structured_output(Animal, method="json_schema").invoke(QUESTION)
whole = chunks[0]
for chunk in chunks[1:]:
    whole += chunk
print(
    json.dumps(
        {
            "text": answer.text,
            "finish_reason": answer.response_metadata["finish_reason"],
            "usage": [
                answer.usage_metadata["input_tokens"],
                answer.usage_metadata["output_tokens"],
            ],
            "streamed": whole.text,
            "streamed_usage": [
                whole.usage_metadata["input_tokens"],
                whole.usage_metadata["output_tokens"],
            ],
            "parsed": parsed.model_dump(),
            "called": [call["name"], call["args"]],
            "completed": OpenAI(model="baton-toy", temperature=0, max_tokens=10).invoke(
                "Once upon a time"
            ),
            "errors": [
                class_of_the_error(api_key="no-such-key"),
                class_of_the_error(model="no-such-model"),
                class_of_the_error(temperature=3),
                class_of_the_error(base_url=os.environ["REFUSING_BASE_URL"]),
                class_of_the_error(max_tokens=1_000_000),
            ],
        }
    )
)
