"""What one rendering may use: processor time, the size of a value, memory, output.

A value's size is that of its tree: one character is 1, an item of a list or a mapping is 16 more,
and what is held twice counts twice, for whatever walks through it does that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sized
from typing import TypeVar

from jinja2 import TemplateError

MAX_SIZE = 8 << 20
"""Of one value."""
MAX_MADE_BYTES = 256 << 20
"""Of all the values that a rendering makes, kept or not."""
MAX_OUTPUT_CHARS = 16 << 20
"""Of all that is written, also what a macro or a block writes and then does not use."""
MAX_WORK = 256 << 20
"""Comparisons of characters in one call whose time is a product."""
MAX_INT_BITS = 16 * 1024
MAX_DEPTH = 256
ITEM_SIZE = 16

_STEPS_BETWEEN_CHECKS = 64
_CHARS_A_STEP_SHIFT = 10
_SHORT = 1024
_CONTAINERS = (list, tuple, dict)
_SIZED = (str, list, tuple, dict, range)

T = TypeVar("T")


class LimitError(TemplateError):
    """A template has used what it may use."""


class TimeLimitError(LimitError):
    """It has used its time."""


class Budget:
    """Of one rendering, in one thread.

    Args:
        limit_s: Processor time of the thread, so that a busy machine makes no template a bad one.
        clock: Seconds of processor time.
    """

    __slots__ = ("_check_at", "_clock", "_ends_at", "_limit_s", "_num_steps", "_output", "_room")

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._ends_at = clock() + limit_s
        self._num_steps = 0
        self._check_at = _STEPS_BETWEEN_CHECKS
        self._room = MAX_MADE_BYTES
        self._output = MAX_OUTPUT_CHARS

    def spend(self, steps: int = 1) -> bool:
        """Count steps, of up to some microseconds each, and return True, for use in conditions.

        Raises:
            TimeLimitError: The time is over.
        """
        self._num_steps += steps
        if self._num_steps >= self._check_at:
            self._check_at = self._num_steps + _STEPS_BETWEEN_CHECKS
            if self._clock() > self._ends_at:
                raise TimeLimitError(f"it takes more than {self._limit_s:g} s of processor time")
        return True

    def admit(self, value: T) -> T:
        """Count what it takes to walk through a value; return it.

        Raises:
            LimitError: It is too large.
        """
        if isinstance(value, str):
            size = len(value)
            if size < _SHORT:
                self._num_steps += 1  # the clock is looked at soon enough, at the next round
            else:
                self._check_size(size)
                self.spend(1 + (size >> _CHARS_A_STEP_SHIFT))
        elif isinstance(value, _CONTAINERS):
            self._walk(value)
        elif isinstance(value, int):
            self.foresee_bits(value.bit_length())
        return value

    def made(self, value: T) -> T:
        """Admit a value that is new in memory; return it."""
        if isinstance(value, str):
            self._take(len(value) if value.isascii() else 4 * len(value))
        elif isinstance(value, _CONTAINERS):
            self._take(ITEM_SIZE * len(value))
        return self.admit(value)

    def copied(self, value: T) -> T:
        """Count a part of an admitted value, which is new itself but whose items are not."""
        if isinstance(value, Sized):
            self.spend(1 + (len(value) >> _CHARS_A_STEP_SHIFT))
            self._take(4 * len(value) if isinstance(value, str) else ITEM_SIZE * len(value))
        return value

    def glanced(self, value: T) -> T:
        """Count going once over the items of a value, without looking into them."""
        if isinstance(value, _SIZED) and len(value) >= _SHORT:
            self.spend(1 + (len(value) >> _CHARS_A_STEP_SHIFT))
        return value

    def write(self, num_chars: int) -> None:
        """Count output.

        Raises:
            LimitError: There is too much of it.
        """
        self._output -= num_chars
        if self._output < 0:
            raise LimitError(f"it writes more than {MAX_OUTPUT_CHARS:,} characters")
        self._num_steps += 1

    def foresee(self, size: int) -> None:
        """Refuse a value before it is made.

        Raises:
            LimitError: It would be too large.
        """
        self._check_size(size)

    def foresee_bits(self, num_bits: int) -> None:
        """Refuse a number, also before it is made.

        Raises:
            LimitError: It would be too large.
        """
        if num_bits > MAX_INT_BITS:
            raise LimitError(f"it makes a number of more than {MAX_INT_BITS} bits")

    def foresee_work(self, num_comparisons: int) -> None:
        """Refuse a call before it is made.

        Raises:
            LimitError: It would take too long.
        """
        if num_comparisons > MAX_WORK:
            raise LimitError("it searches a text for too long")

    def _check_size(self, size: int) -> None:
        if size > MAX_SIZE:
            raise LimitError(f"it makes a value of more than {MAX_SIZE:,} characters")

    def _take(self, num_bytes: int) -> None:
        self._room -= num_bytes
        if self._room < 0:
            raise LimitError(f"it makes more than {MAX_MADE_BYTES:,} bytes of values")

    def _walk(self, value: object) -> None:
        # Level by level. It ends at the limit, also where the tree has more nodes than there are
        # atoms. Nesting is bounded, for Python takes the hash of a tuple by unbounded recursion.
        level, size, depth = [value], 0, 0
        while level:
            self.spend(len(level))
            depth += 1
            below: list[object] = []
            for item in level:
                if isinstance(item, str):
                    size += len(item)
                elif isinstance(item, dict):
                    size += 2 * ITEM_SIZE * len(item)
                    below.extend(item.keys())
                    below.extend(item.values())
                elif isinstance(item, list | tuple):
                    size += ITEM_SIZE * len(item)
                    below.extend(item)
                if size > MAX_SIZE:
                    self._check_size(size)
            if depth > MAX_DEPTH:
                raise LimitError(f"it nests values more than {MAX_DEPTH} levels deep")
            level = below


class Current(threading.local):
    """Where a thread finds the budget of the rendering that it is in."""

    budget: Budget
