"""A job of the run with faults beside the same job of the run without: what is missing?

Pure. One letter of text is one token (see `model`), so texts and token ids are compared alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from tests.chaos.jobs import ChaosJob
from tests.chaos.stream import StreamText


@dataclass(frozen=True, slots=True)
class Difference:
    """Tokens that a sequence lacks, has too many of, or has in place of others."""

    lost: int = 0
    repeated: int = 0
    changed: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.lost + other.lost, self.repeated + other.repeated, self.changed + other.changed
        )

    def __bool__(self) -> bool:
        return bool(self.lost or self.repeated or self.changed)


def compare(expected: Sequence[Any], got: Sequence[Any]) -> Difference:
    """Align two sequences and count how they differ."""
    total = Difference()
    if list(expected) == list(got):
        return total
    matcher = SequenceMatcher(None, expected, got, autojunk=False)
    for kind, start, end, got_start, got_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        wanted, came = end - start, got_end - got_start
        both = min(wanted, came)
        total += Difference(lost=wanted - both, repeated=came - both, changed=both)
    return total


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, as a poller was told."""

    status: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: str = ""
    attempts: int = 0
    error: str = ""

    @classmethod
    def of(cls, result: dict[str, Any]) -> Outcome:
        """From the body of `/result`."""
        return cls(
            status=result["status"],
            text=result.get("text", ""),
            token_ids=tuple(result.get("token_ids", ())),
            finish_reason=result.get("finish_reason", ""),
            attempts=result.get("metrics", {}).get("attempts", 0),
            error=": ".join(
                str(result[name]) for name in ("error_type", "error_message") if name in result
            ),
        )


@dataclass
class Verdict:
    """What became of one job.

    Attributes:
        lost: Why the job counts as lost; None where it does not.
        tokens: Differences, of the polled result and of every watcher together.
        broken: One line for each watcher whose stream did not end as it must.
    """

    number: int
    lost: str | None = None
    tokens: Difference = Difference()
    broken: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong with the job."""
        return self.lost is None and not self.tokens and not self.broken


def judge(
    job: ChaosJob, reference: Outcome, outcome: Outcome | None, streams: Sequence[StreamText]
) -> Verdict:
    """Compare a job with its reference.

    Args:
        job: What was asked for.
        reference: How it ended without faults; there it was not cancelled.
        outcome: How it ended with faults; None: it did not end, or nobody could find it.
        streams: What its watchers have.
    """
    verdict = Verdict(job.number)
    verdict.lost = _why_lost(job, reference, outcome)
    expected = reference.text
    if outcome is not None and verdict.lost is None:
        expected_ids = reference.token_ids
        if outcome.status == "cancelled":
            # As far as it came. It has no stop strings, so each token is in the text.
            expected_ids = reference.token_ids[: len(outcome.token_ids)]
            # Of another server's only the letters are known.
            expected = reference.text[: len(outcome.token_ids) or len(outcome.text)]
        verdict.tokens += compare(expected_ids, outcome.token_ids)
        verdict.tokens += compare(expected, outcome.text)
    for number, stream in enumerate(streams):
        verdict.broken += [f"watcher {number}: {what}" for what in _why_broken(stream, outcome)]
        if stream.end is not None and verdict.lost is None:
            verdict.tokens += compare(expected, stream.text)
    return verdict


def _why_lost(job: ChaosJob, reference: Outcome, outcome: Outcome | None) -> str | None:
    if outcome is None:
        return "it was accepted and did not end"
    if outcome.status == "cancelled" and job.cancel_after_s is not None:
        return None
    if outcome.status != reference.status:
        return (
            f"it ended as {outcome.status} and not as {reference.status} {outcome.error}".rstrip()
        )
    if outcome.finish_reason != reference.finish_reason:
        return f"it ended by {outcome.finish_reason} and not by {reference.finish_reason}"
    return None


def _why_broken(stream: StreamText, outcome: Outcome | None) -> list[str]:
    reasons = list(stream.faults)
    if stream.end is None:
        reasons.append(f"it has no last event; it ends at event {stream.last_event_id or 'none'}")
    elif outcome is not None:
        if stream.end["status"] != outcome.status and outcome.status != "error":
            reasons.append(f"its end is {stream.end['status']}, the result's {outcome.status}")
        if stream.end.get("result", "") != outcome.text:
            reasons.append("the result in its last event is not the polled one")
        if stream.text != outcome.text:
            reasons.append("its text is not the polled one")
    return reasons


@dataclass(frozen=True, slots=True)
class Gap:
    """A pause between two frames with text, in seconds of the run."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long it lasted."""
        return self.end_s - self.start_s


def longest_gap(stream: StreamText) -> Gap | None:
    """The longest pause of a stream; None where fewer than two frames brought text."""
    gaps = [Gap(a.at_s, b.at_s) for a, b in pairwise(stream.arrivals)]
    return max(gaps, key=lambda gap: gap.length_s, default=None)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share (0 to 1) of all does not exceed; 0 where there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
