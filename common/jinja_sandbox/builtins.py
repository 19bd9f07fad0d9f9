"""What a template may call: filters, tests and methods, each with what it may make or take.

Whatever is not named here cannot be called. Most are linear in values whose size is bounded
already; the checks are for those whose result or time is a product, or set by a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, cast

from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from common.jinja_sandbox.budget import Budget, Current, LimitError

MAX_WIDTH = 1000
MAX_INDENT = 16
MAX_FORMATTED = 64 << 20


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHALLOW_FILTERS = _names(
    "count d default first items last length list map reject rejectattr reverse select selectattr"
)
"""Those that look at no more than a value's own items."""
_DEEP_FILTERS = _names(
    "abs attr batch capitalize center dictsort e escape filesizeformat float forceescape format "
    "groupby indent int join lower max min random replace round safe slice sort string sum title "
    "trim truncate unique upper urlencode wordcount"
)
_COMPARING_TESTS = _names("!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne")
_SIZED = _names("batch center expandtabs indent ljust rjust round slice zfill")
"""Those where a number is the size of what comes."""

_STR_METHODS = _names(
    "capitalize casefold center count endswith expandtabs find format format_map index isalnum "
    "isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle "
    "isupper join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex "
    "rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper "
    "zfill"
)
_METHODS: dict[type, frozenset[str]] = {
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    bool: frozenset(),
    int: frozenset(),
    float: frozenset(("is_integer",)),
    bytes: frozenset(),
}
# A search from the right, and a strip, compare each character with each in the worst case.
_SEARCHES = _names("lstrip rfind rindex rpartition rsplit rstrip strip trim")
# Behind a name in parentheses, which may hold anything, all is looked at.
_PERCENT_WIDTH = re.compile(r"%(?:[^a-zA-Z%]*(?:\*|\d{4})|\(.*(?:\*|\d{4}))", re.DOTALL)
_BRACE_WIDTH = re.compile(r"\{[^{}]*:[^{}]*(\{|\d{4})")


def is_method(obj: object, name: str) -> bool:
    """Whether a template may ask a value of Python's own types for this attribute."""
    if isinstance(obj, str):
        return name in _STR_METHODS
    names = _METHODS.get(type(obj))
    return names is None or name in names


def filters(now: Current) -> dict[str, Callable[..., Any]]:
    """All filters, which count by the budget of the rendering that they are called in."""
    bounded = {
        name: _bounded_filter(name, FILTERS[name], now) for name in _SHALLOW_FILTERS | _DEEP_FILTERS
    }

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return _to_json(now.budget, value, ensure_ascii, indent, separators, sort_keys)

    return bounded | {"tojson": tojson}


def tests(now: Current) -> dict[str, Callable[..., Any]]:
    """All tests; those that compare count what they compare."""

    def bounded(test: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(test)
        def counted(*args: Any) -> Any:
            for arg in args:
                now.budget.admit(arg)
            return test(*args)

        return counted

    known = cast(dict[str, Callable[..., Any]], TESTS)
    return {n: bounded(test) if n in _COMPARING_TESTS else test for n, test in known.items()}


def check_method(
    budget: Budget, text: str, name: str, args: tuple[Any, ...], named: Sequence[Any]
) -> tuple[Any, ...]:
    """The unnamed arguments for a method of a string, with an iterator read into a list.

    Raises:
        LimitError: It would make or take too much.
    """
    if name == "join" and args:
        args = (list(args[0]), *args[1:])
    _check(budget, name, text, (*args, *named))
    return args


def check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Look at an operation before it is done.

    Raises:
        LimitError: It would make too much.
    """
    if operator == "%" and isinstance(left, str):
        check_format(budget, left, right, _PERCENT_WIDTH, left.count("%"))
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int):
                budget.foresee(len(many) * times)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        budget.foresee_bits(left.bit_length() * right)


def check_braces(budget: Budget, text: str, args: object) -> None:
    """Look at `str.format` before it is called.

    Raises:
        LimitError: It would make too much.
    """
    check_format(budget, text, args, _BRACE_WIDTH, text.count("{"))


def check_format(
    budget: Budget, text: str, args: object, width: re.Pattern[str], num_fields: int
) -> None:
    """Look at a format before it is filled; each field may show all the arguments.

    Raises:
        LimitError: A width has four digits or is an argument, or there is too much to show.
    """
    if width.search(text):
        raise LimitError(f"a format has a width that may be over {MAX_WIDTH - 1}")
    budget.admit(args)
    if len(text) + num_fields * (MAX_WIDTH + _num_chars(args)) > MAX_FORMATTED:
        raise LimitError("a format makes too long a text")


def _bounded_filter(name: str, function: Callable[..., Any], now: Current) -> Callable[..., Any]:
    # Jinja passes a context, or the like, ahead of the value where a filter asks for it.
    at = 1 if hasattr(function, "jinja_pass_arg") else 0
    is_shallow = name in _SHALLOW_FILTERS
    is_checked = name in _SIZED or name in _SEARCHES or name in _GROWTH or name == "format"

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget, value = now.budget, args[at]
        others = (*args[at + 1 :], *kwargs.values()) if kwargs else args[at + 1 :]
        if name in ("join", "sum") and not isinstance(value, str):
            value = list(value)
        budget.glanced(value) if is_shallow else budget.admit(value)
        for other in others:
            budget.admit(other)
        if is_checked:
            _check(budget, name, value, others)
        return budget.made(function(*args[:at], value, *args[at + 1 :], **kwargs))

    return bounded


def _check(budget: Budget, name: str, value: Any, args: tuple[Any, ...]) -> None:
    """Look at a call of a filter, or of a string's method, of this name."""
    if name in _SIZED:
        for arg in args:
            if isinstance(arg, int) and arg > MAX_WIDTH:
                raise LimitError(f"{name} has a size of more than {MAX_WIDTH}")
    if name in _SEARCHES:
        budget.foresee_work(_num_chars(value) * max((_num_chars(a) for a in args), default=0))
    elif name in _GROWTH:
        budget.foresee(_GROWTH[name](value, args))
    elif name == "format":
        check_format(budget, str(value), args, _PERCENT_WIDTH, str(value).count("%"))


def _of_replace(value: Any, args: tuple[Any, ...]) -> int:
    text, old, new = str(value), str(args[0]), str(args[1])
    return len(text) + text.count(old) * len(new)


def _of_join(value: Any, args: tuple[Any, ...]) -> int:
    """Of the filter, `items | join(between)`, and of the method, `between.join(items)`."""
    if isinstance(value, str):
        between, items = (value, args[0]) if args and isinstance(args[0], list) else (args, value)
    else:
        between, items = args, value
    return sum(_num_chars(item) for item in items) + _num_chars(between) * len(items)


def _of_indent(value: Any, args: tuple[Any, ...]) -> int:
    widest = max((_width(arg) for arg in args), default=4)
    return len(str(value)) + (len(str(value).splitlines()) + 1) * widest


def _of_tabs(value: Any, args: tuple[Any, ...]) -> int:
    return len(str(value)) + str(value).count("\t") * max((_width(arg) for arg in args), default=8)


def _of_sum(value: Any, args: tuple[Any, ...]) -> int:
    # Lists are added one by one, each time to a new one.
    if not any(isinstance(arg, list | tuple) for arg in args):
        return 0
    return len(value) * _num_chars(value)


_GROWTH: Mapping[str, Callable[[Any, tuple[Any, ...]], int]] = {
    "replace": _of_replace,
    "join": _of_join,
    "indent": _of_indent,
    "expandtabs": _of_tabs,
    "sum": _of_sum,
}


def _width(value: object) -> int:
    return value if isinstance(value, int) else _num_chars(value)


def _num_chars(value: object) -> int:
    """Of the text that a value becomes, at most; it is of a size that was admitted."""
    return len(value) if isinstance(value, str) else len(str(value))


def _to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool,
    indent: int | None,
    separators: tuple[str, str] | None,
    sort_keys: bool,
) -> str:
    """As `transformers` has it: nothing is escaped for HTML."""
    budget.admit(value)
    if _width(indent or 0) > MAX_INDENT or any(len(text) > MAX_INDENT for text in separators or ()):
        raise LimitError(f"tojson has an indent or a separator of more than {MAX_INDENT}")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None:
        return budget.made(encoder.encode(value))
    pieces, size = [], 0
    for piece in encoder.iterencode(value):  # a deep value is indented by more than it holds
        size += len(piece)
        budget.foresee(size)
        budget.spend()
        pieces.append(piece)
    return budget.made("".join(pieces))
