"""Characters that JSON has cut in two: beyond U+FFFF it may write them as two surrogates."""

from __future__ import annotations


class Surrogates:
    """Joins what was cut between two texts of one answer."""

    def __init__(self) -> None:
        self._high = ""

    def join(self, text: str) -> str:
        """The text, with the half that the last one ended in, and without that it ends in itself.

        A half without its other one becomes U+FFFD: it fits into no UTF-8.
        """
        text = self._high + text
        self._high = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return _whole(text[:-1] if self._high else text)

    def rest(self) -> str:
        """What is left at the end of the answer."""
        high, self._high = self._high, ""
        return _whole(high)


def _whole(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
