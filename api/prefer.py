"""The `Prefer` request header: whether and how long a client would like to wait for its answer.

Source:
    RFC 7240.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.errors import InvalidRequestError

MAX_WAIT_S = 60

_PREFERENCE = re.compile(
    r"""\s*(?P<name>[!#$%&'*+.^_`|~\w-]+)
        (?:\s*=\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s,;"]*))?
        (?P<parameters>(?:\s*;(?:[^,"]|"(?:[^"\\]|\\.)*")*)?)\s*(?:,|$)""",
    re.VERBOSE | re.ASCII,
)


def is_async(headers: Sequence[str]) -> bool:
    """Whether the client would rather not wait: `respond-async`."""
    found = _PREFERENCE.finditer(",".join(headers))
    return any(match["name"].lower() == "respond-async" for match in found)


def wait_of(headers: Sequence[str]) -> int | None:
    """The seconds that a request is ready to wait, or None where it does not say.

    Args:
        headers: The values of all `Prefer` headers of the request.

    Returns:
        `wait=N`, cut to 60; a bare `wait` is 60. Other preferences are ignored, as they may be.

    Raises:
        InvalidRequestError: `wait` is not a whole number of seconds.
    """
    for match in _PREFERENCE.finditer(",".join(headers)):
        if match["name"].lower() == "wait":
            return _seconds(match["value"])
    return None


def _seconds(value: str | None) -> int:
    text = (value or "").strip('"')
    if not text:
        return MAX_WAIT_S
    if not (text.isascii() and text.isdigit()):
        raise InvalidRequestError(
            f"Prefer: wait must be a whole number of seconds; got {text[:20]!r}.", param="Prefer"
        )
    # A number too long to be read is longer than a minute too.
    return MAX_WAIT_S if len(text.lstrip("0")) > 4 else min(int(text), MAX_WAIT_S)
