"""Reads calls out of a model's answer while it is being written.

What may still turn out to be a call's beginning is held back, and nothing else is. Of a call, the
arguments come as they are written, once its name is known. Text that turns out to be no call comes
out as content; white space that stands alone around calls is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from common.tool_calls.call_json import (
    Head,
    NotACallError,
    ObjectScanner,
    Whole,
    read_call,
    read_tail,
    skip_space,
)
from common.tool_calls.families import Family


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; `index` counts an answer's calls from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Event = ContentDelta | CallStart | ArgumentsDelta


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call.

    Attributes:
        arguments: JSON text as the model wrote it: valid where a grammar forced it, but perhaps
            not where the model wrote freely, or was cut off.
    """

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _Syntax:
    """How a family marks its calls.

    Attributes:
        opener: Before a call, anywhere in the text.
        closer: After one.
        bare: What an answer without an opener may begin with, to be a call.
        separator: Between calls without openers.
        is_named: A name and arguments may stand behind the opener, without an object around.
    """

    opener: str
    closer: str = ""
    bare: str = ""
    separator: str = ""
    is_named: bool = False


_SYNTAX = {
    Family.HERMES: _Syntax("<tool_call>", closer="</tool_call>"),
    Family.LLAMA: _Syntax("<|python_tag|>", bare="{", separator=";"),
    Family.MISTRAL: _Syntax("[TOOL_CALLS]", bare="[", is_named=True),
    Family.GENERIC: _Syntax("<tool_call>", closer="</tool_call>", bare="{["),
}
_NAMED = re.compile(
    r"\s*(?P<name>[A-Za-z0-9_.-]{1,128})(?:\[CALL_ID\][A-Za-z0-9_-]{1,64})?(?:\[ARGS\])?\s*"
)
_NAME_SO_FAR = re.compile(r"\s*[A-Za-z0-9_.-]{0,128}")
_ID_SO_FAR = re.compile(r"\[CALL_ID\][A-Za-z0-9_-]{0,64}")
_MAX_NAMED_CHARS = 512


class ToolCallParser:
    """Parses one answer of one choice; not to be used again, nor from several threads."""

    def __init__(self, family: Family) -> None:
        """Stand at the answer's beginning."""
        self._syntax = _SYNTAX[family]
        self._state: Callable[[], bool] = self._at_start
        self._held = ""
        self._lead = ""
        self._is_in_list = False
        self._is_closed = False
        self._has_tail = False
        self._num_calls = 0
        self._scanner = ObjectScanner()
        self._events: list[Event] = []

    @property
    def num_calls(self) -> int:
        """Calls that have begun so far: above 0, the finish reason is `tool_calls`."""
        return self._num_calls

    def feed(self, delta: str) -> list[Event]:
        """Read on, and return what is certain by now."""
        self._held += delta
        while self._held and self._state():
            pass
        return self._taken()

    def close(self) -> list[Event]:
        """Return what was held back, for the answer has ended."""
        state, held = self._state, self._held
        self._held = ""
        if state == self._in_call:
            self._say(self._lead + held)
        elif state in (self._after_arguments, self._after_call):
            self._say(held if held.strip() else "")
        else:
            self._say(held)
        return self._taken()

    # The states: each takes what it can from the held text, and returns whether to go on.

    def _at_start(self) -> bool:
        at = skip_space(self._held)
        rest, opener = self._held[at:], self._syntax.opener
        if rest.startswith(opener):
            return self._open(at + len(opener), self._held[: at + len(opener)])
        if opener.startswith(rest):
            return False
        if rest[0] in self._syntax.bare:
            return self._open(0, "")
        return self._go(self._in_content)

    def _in_content(self) -> bool:
        opener = self._syntax.opener
        at = self._held.find(opener)
        if at >= 0:
            self._say(self._held[:at])
            return self._open(at + len(opener), opener)
        keep = _len_of_overlap(self._held, opener)
        self._say(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return False

    def _in_call(self) -> bool:
        """Behind an opener, a separator, or nothing where an answer begins with a call."""
        self._enter_list()
        try:
            call = self._read_named() if self._is_name_next() else read_call(self._held)
            if isinstance(call, Whole) and call.arguments is None and not self._lead:
                raise NotACallError
        except NotACallError:
            self._say(self._lead)
            self._is_in_list = False
            return self._go(self._in_content)
        if call is None:
            return False
        self._begin(call)
        return True

    def _in_arguments(self) -> bool:
        end = self._scanner.scan(self._held)
        self._argue(self._held[:end])
        self._held = "" if end is None else self._held[end:]
        if end is None:
            return False
        return self._go(self._after_arguments if self._has_tail else self._after_call)

    def _after_arguments(self) -> bool:
        try:
            end = read_tail(self._held)
        except NotACallError:
            return self._go(self._after_call)
        if end is None:
            return False
        self._held = self._held[end:]
        return self._go(self._after_call)

    def _after_call(self) -> bool:
        at = skip_space(self._held)
        rest, syntax = self._held[at:], self._syntax
        closer = "" if self._is_closed else syntax.closer
        if rest.startswith(syntax.opener):
            end = at + len(syntax.opener)
            return self._open(end, self._held[:end])
        if closer and rest.startswith(closer):
            self._is_closed = True
            self._held = rest[len(closer) :]
            return True
        if syntax.opener.startswith(rest) or closer.startswith(rest):
            return False
        return self._next_without_opener(at, rest)

    def _next_without_opener(self, at: int, rest: str) -> bool:
        if self._is_in_list and rest[0] in ",]":
            if rest[0] == ",":
                return self._open(at + 1, self._held[: at + 1], in_list=True)
            self._is_in_list = False
            self._held = rest[1:]
            return True
        if self._syntax.separator and rest[0] == self._syntax.separator:
            return self._open(at + 1, self._held[: at + 1])
        if self._syntax.separator and rest[0] == "{":
            return self._open(at, self._held[:at])
        return self._go(self._in_content)

    # What the states have in common.

    def _open(self, at: int, lead: str, *, in_list: bool = False) -> bool:
        self._held = self._held[at:]
        self._lead = lead
        self._is_in_list = in_list
        return self._go(self._in_call)

    def _begin(self, call: Head | Whole) -> None:
        self._events.append(CallStart(self._num_calls, call.name))
        self._num_calls += 1
        self._is_closed = False
        if isinstance(call, Whole):
            self._argue(call.arguments or "{}")
            self._held = self._held[call.end :]
            self._state = self._after_call
        else:
            self._held = self._held[call.arguments_at :]
            self._scanner = ObjectScanner()
            self._state = self._in_arguments

    def _enter_list(self) -> None:
        at = skip_space(self._held)
        may_be_list = "[" in self._syntax.bare and (self._syntax.is_named or not self._lead)
        if may_be_list and not self._is_in_list and self._held[at : at + 1] == "[":
            self._lead += self._held[: at + 1]
            self._held = self._held[at + 1 :]
            self._is_in_list = True

    def _is_name_next(self) -> bool:
        at = skip_space(self._held)
        is_bare = self._is_in_list or not self._lead
        self._has_tail = True
        if not self._syntax.is_named or is_bare or self._held[at : at + 1] == "{":
            return False
        self._has_tail = False
        return True

    def _read_named(self) -> Head | None:
        """The call in `name[ARGS]{...}`; None while that cannot be told."""
        found = _NAMED.match(self._held)
        if found is not None and self._held[found.end() : found.end() + 1] == "{":
            if found.end() >= _MAX_NAMED_CHARS:
                raise NotACallError
            return Head(found["name"], found.end())
        if len(self._held) > _MAX_NAMED_CHARS or not _may_become_named(self._held):
            raise NotACallError
        return None

    def _go(self, state: Callable[[], bool]) -> bool:
        self._state = state
        return True

    def _say(self, text: str) -> None:
        if text:
            self._events.append(ContentDelta(text))

    def _argue(self, text: str) -> None:
        if text:
            self._events.append(ArgumentsDelta(self._num_calls - 1, text))

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _may_become_named(text: str) -> bool:
    """Whether `name[CALL_ID]id[ARGS]{` may begin so; both marks may be missing."""
    name = _NAME_SO_FAR.match(text)
    assert name is not None
    rest = text[name.end() :]
    call_id = _ID_SO_FAR.match(rest)
    if call_id is not None:
        rest = rest[call_id.end() :]
    elif "[CALL_ID]".startswith(rest):
        return True
    return "[ARGS]".startswith(rest) or not rest.removeprefix("[ARGS]").strip()


def _len_of_overlap(text: str, mark: str) -> int:
    """How much of a text's end may be a mark's beginning."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A whole answer, taken apart."""

    content: str
    calls: tuple[ToolCall, ...]


def parse(text: str, family: Family) -> ParsedAnswer:
    """Take a whole answer apart; the same calls and content as `ToolCallParser` gives in pieces."""
    parser = ToolCallParser(family)
    content, names, arguments = "", list[str](), list[str]()
    for event in [*parser.feed(text), *parser.close()]:
        if isinstance(event, ContentDelta):
            content += event.text
        elif isinstance(event, CallStart):
            names.append(event.name)
            arguments.append("")
        else:
            arguments[event.index] += event.text
    return ParsedAnswer(content, tuple(map(ToolCall, names, arguments)))
