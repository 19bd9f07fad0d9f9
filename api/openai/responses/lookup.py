"""A response by its id, for the key that it belongs to."""

from __future__ import annotations

import re

from api.gateway import Gateway
from api.openai.responses.reply import PREFIX, Reply
from api.validation_message import cut, printable
from common.errors import ResponseNotFoundError
from common.schemas import JobRecord

_ID = re.compile(rf"{PREFIX}([0-9A-Za-z-]{{1,64}})")


async def find_response(gateway: Gateway, response_id: str, key_id: str) -> tuple[JobRecord, Reply]:
    """The response's job, and what it keeps.

    Raises:
        ResponseNotFoundError: There is none, it was not stored, was deleted or dropped, or belongs
            to another key.
        RedisUnavailableError: Redis is away.
    """
    found = _ID.fullmatch(response_id)
    record = None if found is None else await gateway.jobs.find(found[1])
    if record is None or record.key_id != key_id or record.reply is None:
        raise _not_found(response_id)
    reply = Reply.unpack(record.reply)
    if not reply.is_stored:
        raise _not_found(response_id)
    return record, reply


def _not_found(response_id: str) -> ResponseNotFoundError:
    return ResponseNotFoundError(f"Response with id '{cut(printable(response_id))}' not found.")
