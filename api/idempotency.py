"""The `Idempotency-Key` request header: the client's name for one submission.

A route takes it with one parameter of type `IdempotencyKeyHeader`, and hands it to the submitter.
Knows nothing about what a repeat is answered with: that is the submit script's to say.

Source:
    draft-ietf-httpapi-idempotency-key-header; RFC 8941, section 3.3.3, for the quoted form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel

from common.errors import InvalidRequestError
from common.job_store import Idempotency

HEADER = "Idempotency-Key"
REPLAYED = {"Idempotent-Replayed": "true"}
"""The response header of a repeat."""
MAX_KEY_CHARS = 255
HASH_CHARS = 32
"""128 bits: enough to tell one client's keys apart, in half the memory."""

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[ !#-~]*")
_QUOTED_CHAR = r'([!#-\[\]-~]|\\["\\])'
_DOCUMENTED = (
    rf'^([!#-~][ !#-~]{{0,{MAX_KEY_CHARS - 1}}}|"({_QUOTED_CHAR} *){{1,{MAX_KEY_CHARS}}}")$'
)
"""What the documentation says of a key; spaces around it are let through beyond that."""
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's name for one submission.

    Attributes:
        text: The key, without quotes.
        path: Where it was sent: the same body means something else at another address.
    """

    text: str
    path: str

    def of(self, body: BaseModel) -> Idempotency:
        """The key with the request that it names.

        Of the parsed body, only what differs from its default counts: neither the order and the
        spelling of the fields nor a later version's new ones make it another request.
        """
        fields = body.model_dump(mode="json", exclude_defaults=True)
        request = json.dumps([self.path, fields], sort_keys=True, separators=(",", ":"))
        return Idempotency(_digest(self.text), _digest(request))


def key_of(headers: Sequence[str]) -> str | None:
    """The idempotency key of a request, or None where it has none.

    Args:
        headers: The values of all its `Idempotency-Key` headers.

    Raises:
        InvalidRequestError: It is empty, too long, not printable ASCII or wrongly quoted, or
            several different ones came.
    """
    found = {_parsed(header) for header in headers}
    if len(found) > 1:
        raise _invalid("must be sent once; got several different ones")
    return found.pop() if found else None


def _parsed(header: str) -> str:
    value = header.strip(" \t")
    if not (value.isascii() and value.isprintable()):
        raise _invalid("must be printable ASCII")
    if quoted := _QUOTED.fullmatch(value):
        key = _ESCAPED.sub(r"\1", quoted[1])
    elif _BARE.fullmatch(value):
        key = value
    else:
        raise _invalid('must have its quotes around the whole of it, as in "3f1c", or none')
    if not key.strip():
        raise _invalid("must not be empty")
    if len(key) > MAX_KEY_CHARS:
        raise _invalid(f"must have at most {MAX_KEY_CHARS} characters; got {len(key)}")
    return key


async def idempotency_key(
    request: Request,
    # Only described by this: where it comes several times, all of them count.
    _header: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description="Your name for this submission, such as a UUID. A repeat within 24 hours "
            "is answered with the same task, and marked with `Idempotent-Replayed: true`.",
            # No example: what fills it in for people would fill in the same one twice.
            json_schema_extra={"pattern": _DOCUMENTED},
        ),
    ] = None,
) -> IdempotencyKey | None:
    """The key that a client gave its submission.

    Raises:
        InvalidRequestError: It is malformed.
    """
    text = key_of(request.headers.getlist(HEADER))
    return None if text is None else IdempotencyKey(text, request.url.path)


IdempotencyKeyHeader = Annotated[IdempotencyKey | None, Depends(idempotency_key)]


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{HEADER} {problem}.", param=HEADER)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]
