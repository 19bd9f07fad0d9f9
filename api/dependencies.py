"""What routes ask for in their parameters: the gateway, who is calling, and which job is meant."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPAuthorizationCredentials, HTTPBearer

from api.auth import same_token
from api.gateway import Gateway
from api.validation_message import cut, printable
from common.errors import AuthenticationError, TaskNotFoundError
from common.schemas import JobRecord

_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")
_BEARER = HTTPBearer(auto_error=False, description="An API key, as OpenAI's clients send it.")
_QUERY = APIKeyQuery(
    name="api_key",
    auto_error=False,
    scheme_name="APIKeyQuery",
    description="An API key, for EventSource, which cannot send headers. Streams only.",
)
_TASK_ID = re.compile(r"[0-9A-Za-z-]{1,64}")

HeaderKey = Annotated[str | None, Security(_HEADER)]
BearerKey = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
StreamToken = Annotated[
    str | None, Query(description="In place of a key: the one in the `stream_url` of the task.")
]
QueryKey = Annotated[str | None, Security(_QUERY)]


async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(_gateway)]


async def key_id(
    request: Request, gateway: GatewayDep, header: HeaderKey, bearer: BearerKey
) -> str:
    """The id of the key that calls.

    Raises:
        AuthenticationError: There is no key, or it is not known.
        RateLimitError: That happened too often from this address.
    """
    return await _authenticated(request, gateway, _first(header, bearer))


KeyId = Annotated[str, Depends(key_id)]


async def check_key(request: Request) -> None:
    """Refuse who has no key that is known, as `key_id` does, before anything of a body is read.

    Raises:
        AuthenticationError: There is no key, or it is not known.
        RateLimitError: That happened too often from this address.
    """
    header, bearer = await _HEADER(request), await _BEARER(request)
    await _authenticated(request, await _gateway(request), _first(header, bearer))


async def reader(request: Request, gateway: GatewayDep, key_id: KeyId) -> str:
    """The id of a key that may read.

    Raises:
        RateLimitError: It has read too often.
    """
    await gateway.limits.count_read(request)
    return key_id


async def submitter(request: Request, gateway: GatewayDep, key_id: KeyId) -> str:
    """The id of a key that may try to submit; the submit script has the last word.

    Raises:
        RateLimitError: It has tried too often.
    """
    await gateway.limits.count_submission(request)
    return key_id


ReaderId = Annotated[str, Depends(reader)]
SubmitterId = Annotated[str, Depends(submitter)]


async def task_id(task_id: Annotated[str, Path(description="As `POST /generate` gave it.")]) -> str:
    """The id of a task, if it looks like one.

    Raises:
        TaskNotFoundError: It does not.
    """
    if not _TASK_ID.fullmatch(task_id):
        raise TaskNotFoundError(f"Task '{cut(printable(task_id))}' not found")
    return task_id


TaskId = Annotated[str, Depends(task_id)]


async def stream_record(
    request: Request,
    gateway: GatewayDep,
    task_id: TaskId,
    header: HeaderKey,
    bearer: BearerKey,
    query: QueryKey,
    token: StreamToken = None,
) -> JobRecord:
    """The job whose stream may be read: by its owner's key, or by the stream's own token.

    Raises:
        AuthenticationError: Neither came, or they are wrong.
        RateLimitError: The key has read too often.
        TaskNotFoundError: There is no such job, or it belongs to another key.
    """
    api_key = _first(header, bearer) or query
    if api_key is None and token is not None:
        record = await gateway.jobs.find(task_id)
        if record is None or not same_token(token, record.stream_token):
            await gateway.limits.count_failure(request)
            raise AuthenticationError("The stream token is not valid for this task.")
        request.state.key_id = record.key_id
        await gateway.limits.count_read(request)
        return record
    key_id = await _authenticated(request, gateway, api_key)
    await gateway.limits.count_read(request)
    return await gateway.jobs.get(task_id, key_id)


StreamRecord = Annotated[JobRecord, Depends(stream_record)]


def _first(header: str | None, bearer: HTTPAuthorizationCredentials | None) -> str | None:
    return header or (bearer.credentials if bearer is not None else None)


async def _authenticated(request: Request, gateway: Gateway, api_key: str | None) -> str:
    known = gateway.keys.key_id(api_key) if api_key else None
    if known is None:
        await gateway.limits.count_failure(request)
        raise AuthenticationError(
            "The API key is not known."
            if api_key
            else "An API key is needed: send it as X-API-Key, or as Authorization: Bearer."
        )
    request.state.key_id = known
    return known
