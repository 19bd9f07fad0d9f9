"""From a line to the call that it asks for.

Source:
    OpenAI's API reference, the request input object of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.batches.lines import MAX_LINE_BYTES, InputLine
from api.openai.call_maker import CallMaker
from api.openai.calls import Call
from api.openai.chat_request import ChatRequest
from api.openai.completion_request import CompletionRequest
from api.openai.embeddings_request import EmbeddingsRequest
from api.validation_message import explain, shown
from common.errors import InvalidRequestError
from common.json_depth import NestingError, parsed

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
Body = ChatRequest | CompletionRequest | EmbeddingsRequest
MAX_CUSTOM_ID_CHARS = 512
_BODIES: dict[str, type[ChatRequest] | type[CompletionRequest] | type[EmbeddingsRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingsRequest,
}


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    custom_id: str = Field(min_length=1, max_length=MAX_CUSTOM_ID_CHARS)
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LineRequest:
    """What a line asks for."""

    custom_id: str
    call: Call


class LineError(Exception):
    """A line that is no request to its batch's endpoint.

    Attributes:
        code: A stable name for programs.
        message: What was expected and what came.
        param: The field at fault.
        custom_id: As far as it could be read.
    """

    def __init__(
        self, code: str, message: str, param: str | None = None, custom_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.custom_id = custom_id


async def read_line(line: InputLine, endpoint: str, calls: CallMaker) -> LineRequest:
    """What a line asks for.

    Raises:
        LineError: It is malformed.
        InvalidRequestError: It is a request, and its body would be refused.
        RedisUnavailableError: Redis is away.
    """
    read = _read(line)
    call = await calls.of(_body_of(read, endpoint))
    if call.job.router is not None:
        # A router is waited for, and a batch's submissions wait for nothing.
        raise InvalidRequestError("router is not taken in batches: name the model.", param="router")
    # What is waited for goes first, and a batch counted when it was created.
    call.job = replace(call.job, job_class="low", is_rated=False)
    return LineRequest(read.custom_id, call)


def _body_of(line: _Line, endpoint: str) -> Body:
    if line.url != endpoint:
        raise LineError(
            "mismatched_url",
            f"url must be {endpoint}, as the batch's endpoint; got {shown(line.url)}.",
            "url",
            line.custom_id,
        )
    kind = _BODIES[endpoint]
    try:
        body = kind.model_validate(line.body)
    except ValidationError as error:
        message, param = explain(error.errors(), kind.model_fields)
        raise InvalidRequestError(message, param=param) from error
    if body.is_streamed:
        raise InvalidRequestError(
            "stream must be false: the answers of a batch are in its output file.", param="stream"
        )
    return body


def custom_id_of(line: InputLine) -> str | None:
    """The name that a line gives its request, however wrong the rest of it is."""
    try:
        values = parsed(line.content or b"")
    except ValueError:
        return None
    named = values.get("custom_id") if isinstance(values, dict) else None
    return named if isinstance(named, str) else None


def _read(line: InputLine) -> _Line:
    if line.content is None:
        raise LineError(
            "line_too_long",
            f"A line must have at most {MAX_LINE_BYTES} bytes; this one has {line.length}.",
        )
    try:
        values = parsed(line.content)
    except NestingError as error:
        raise LineError("invalid_json_line", f"The line is {error}.") from error
    except ValueError as error:
        raise LineError("invalid_json_line", f"The line is not valid JSON: {error}.") from error
    try:
        return _Line.model_validate(values)
    except ValidationError as error:
        message, param = explain(error.errors(), _Line.model_fields, "line")
        raise LineError("invalid_line", message, param, custom_id_of(line)) from error
