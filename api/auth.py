"""Who is calling: API keys, and the tokens that open one stream each.

A key is known by the first half of its hash's hex digits ("key id"), in logs and in job records;
the key itself is kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

KEY_ID_CHARS = 16


class KeyRing:
    """The API keys, as hashes."""

    def __init__(self, api_keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in api_keys]

    def key_id(self, api_key: str) -> str | None:
        """The id of a key, or None where it is not known.

        Every key is compared in constant time, so the time tells nothing.
        """
        digest = _digest(api_key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:KEY_ID_CHARS] if any(matches) else None


def same_token(given: str, expected: str) -> bool:
    """Whether a stream token is the right one, in constant time."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
