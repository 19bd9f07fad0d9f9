"""Alternate two measurements, A B A B ..., and compare their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Two series of the same figure, taken in turn.

    Attributes:
        unit: Of both series, such as `s`.
        ours: One value a round.
        theirs: As many, of what ours is compared with.
    """

    what: str
    against: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median over the rounds of ours / theirs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    def row(self) -> str:
        """A row of the results' table."""
        ours, theirs = _show(self.ours, self.unit), _show(self.theirs, self.unit)
        return f"| {self.what} | {ours} | {self.against} | {theirs} | {self.ratio:.2f} |"


def alternate(
    what: str,
    ours: Callable[[], float],
    against: str,
    theirs: Callable[[], float],
    *,
    unit: str,
    rounds: int = 5,
) -> Comparison:
    """Take both figures in turn, after one round that does not count."""
    ours(), theirs()
    taken = [(ours(), theirs()) for _ in range(rounds)]
    return Comparison(what, against, unit, tuple(a for a, _ in taken), tuple(b for _, b in taken))


def _show(values: tuple[float, ...], unit: str) -> str:
    median = statistics.median(values)
    return f"{median:.3g} {unit} ({min(values):.3g} to {max(values):.3g})"
