"""Reads one call out of the beginning of a JSON text that may still grow.

A call is `{"name": "f", "arguments": {...}}`. What is found depends on the text alone, and never on
how much more of it is there, so that a text gives the same calls in whatever pieces it came.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

MAX_HEAD_CHARS = 64 * 1024
"""What comes before the arguments; with a longer one it is no call."""

_ARGUMENTS = ("arguments", "parameters")
_KEYS = ("name", *_ARGUMENTS, "id", "type")
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class NotACallError(Exception):
    """The text is not a call, whatever may follow."""


class _Unfinished(Exception):
    """More of the text is needed."""


@dataclass(frozen=True, slots=True)
class Head:
    """A call whose name is known and whose arguments begin.

    Attributes:
        arguments_at: Where their brace is.
    """

    name: str
    arguments_at: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A call that is complete, and could not be told earlier.

    Attributes:
        arguments: Their JSON text, or None where there are none.
        end: Past the call's closing brace.
    """

    name: str
    arguments: str | None
    end: int


class ObjectScanner:
    """Finds the end of a JSON object that comes in pieces, by its braces and strings alone."""

    def __init__(self) -> None:
        """Stand before the opening brace."""
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def scan(self, text: str, at: int = 0) -> int | None:
        """Go on by a piece; return the place after the closing brace, if it is there."""
        while at < len(text):
            if self._is_escaped:
                self._is_escaped = False
                at += 1
                continue
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(text, at)
            if found is None:
                return None
            at = found.end()
            if self._is_end(found.group()):
                return at
        return None

    def _is_end(self, char: str) -> bool:
        if char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._in_string = not self._in_string
        else:
            self._depth += 1 if char in "{[" else -1
        return self._depth == 0


def read_call(text: str) -> Head | Whole | None:
    """The call that a text begins with; None while that cannot be told.

    Raises:
        NotACallError: It does not begin with one.
    """
    try:
        call = _read_call(text)
    except _Unfinished:
        call = None
    end = len(text)
    if call is not None:
        end = call.arguments_at + 1 if isinstance(call, Head) else call.end
    if end > MAX_HEAD_CHARS:
        raise NotACallError
    return call


def read_tail(text: str) -> int | None:
    """Past the brace that closes a call, from the place after its arguments; None: not there yet.

    Raises:
        NotACallError: Something else comes.
    """
    try:
        at, key = _next_key(text, 0, is_first=False)
        while key is not None:
            if key in _ARGUMENTS:
                raise NotACallError
            _, at = _scalar(text, at)
            at, key = _next_key(text, at, is_first=False)
    except _Unfinished:
        if len(text) > MAX_HEAD_CHARS:
            raise NotACallError from None
        return None
    if at > MAX_HEAD_CHARS:
        raise NotACallError
    return at


def skip_space(text: str, at: int = 0) -> int:
    """Past JSON's white space."""
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _read_call(text: str) -> Head | Whole:
    at, name, arguments = _expect(text, skip_space(text), "{"), None, None
    at, key = _next_key(text, at, is_first=True)
    while key is not None:
        if key not in _ARGUMENTS:
            value, at = _scalar(text, at)
            if key == "name":
                name = _checked_name(value)
        elif _char(text, at) == "{" and name is not None:
            return Head(name, at)
        else:
            arguments, at = _arguments(text, at)
        at, key = _next_key(text, at, is_first=False)
    if name is None:
        raise NotACallError
    return Whole(name, arguments, at)


def _next_key(text: str, at: int, *, is_first: bool) -> tuple[int, str | None]:
    """The next key and where its value begins, or None and the place after the object."""
    at = skip_space(text, at)
    if _char(text, at) == "}":
        return at + 1, None
    if not is_first:
        at = skip_space(text, _expect(text, at, ","))
    at = _expect(text, at, '"')
    # Compared as it is written, so that half a key can be compared, too.
    for key in _KEYS:
        if text.startswith(f'{key}"', at):
            at = skip_space(text, at + len(key) + 1)
            at = skip_space(text, _expect(text, at, ":"))
            _char(text, at)
            return at, key
    if any(f'{key}"'.startswith(text[at:]) for key in _KEYS):
        raise _Unfinished
    raise NotACallError


def _arguments(text: str, at: int) -> tuple[str, int]:
    """Arguments that come before the name, or in a string."""
    if text[at] == "{":
        end = ObjectScanner().scan(text, at)
        if end is None:
            raise _Unfinished
        return _checked_object(text[at:end]), end
    value, end = _scalar(text, at)
    return "{}" if value is None else _checked_object(value), end


def _scalar(text: str, at: int) -> tuple[object, int]:
    is_string = _char(text, at) == '"'
    found = (_STRING if is_string else _SCALAR).match(text, at)
    if found is None and not is_string:
        raise NotACallError
    if found is None or (found.end() == len(text) and not is_string):
        raise _Unfinished
    try:
        return json.loads(found.group()), found.end()
    except ValueError:
        raise NotACallError from None


def _checked_name(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise NotACallError


def _checked_object(text: object) -> str:
    if not isinstance(text, str):
        raise NotACallError
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise NotACallError


def _expect(text: str, at: int, char: str) -> int:
    if _char(text, at) != char:
        raise NotACallError
    return at + 1


def _char(text: str, at: int) -> str:
    if at >= len(text):
        raise _Unfinished
    return text[at]
