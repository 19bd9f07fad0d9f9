"""Keys that were over their rate, until they may submit again. Knows nothing about Redis."""

from __future__ import annotations

import time

from common.errors import RateLimitError
from common.job_store import RATE_EXCEEDED


class KeyWaits:
    """What Redis said of keys over their rate: so that nothing is worked out for them before.

    Redis never lets a key in earlier than it said: others of its requests only make it wait longer.
    """

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}  # of `time.monotonic`

    def check(self, key_id: str) -> None:
        """Refuse a key that has to wait.

        Raises:
            RateLimitError: It has to, for as long as that says.
        """
        wait_s = self._until_s.get(key_id, 0.0) - time.monotonic()
        if wait_s > 0:
            raise RateLimitError(RATE_EXCEEDED, retry_after_s=wait_s)

    def note(self, key_id: str, error: RateLimitError) -> None:
        """Remember that a key was over its rate just now."""
        self._until_s[key_id] = time.monotonic() + (error.retry_after_s or 0.0)
