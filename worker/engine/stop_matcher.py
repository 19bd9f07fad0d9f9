"""Find stop strings in a growing text, holding back only what could become one.

Knows nothing about tokens.
"""

from collections.abc import Sequence


class StopMatcher:
    """Cut a text at the first stop string, across the borders of its parts."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Watch for these strings.

        Args:
            stop: Non-empty strings; none at all lets every text through at once.
        """
        self._stop = tuple(stop)
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """Take more text and return what may be shown.

        Nothing comes back once a stop string has been found (`matched`): neither
        the string itself nor what follows it is ever shown.
        """
        if self.matched:
            return ""
        text = self._held + text
        starts = [start for start in map(text.find, self._stop) if start >= 0]
        if starts:
            self.matched, self._held = True, ""
            return text[: min(starts)]
        shown = len(text) - self._num_suspect(text)
        self._held = text[shown:]
        return text[:shown]

    def release(self) -> str:
        """Return what is held back, when no more text will come."""
        held, self._held = self._held, ""
        return held

    def _num_suspect(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        ends = range(longest, 0, -1)
        return next((n for n in ends if any(s.startswith(text[-n:]) for s in self._stop)), 0)
