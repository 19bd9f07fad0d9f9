"""What the checker finds: violations, each of one kind, and how to look at one again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.connection import SyncRedis
from common.settings import Settings


class Kind(StrEnum):
    """The invariant that does not hold. `docs/operations.md` says what to do about each."""

    # Keys
    UNKNOWN_KEY = "unknown_key"
    WRONG_TYPE = "wrong_type"
    STAYS_FOR_EVER = "stays_for_ever"
    MAY_EXPIRE = "may_expire"
    ORPHAN_EVENTS = "orphan_events"
    # A record and its place
    BAD_RECORD = "bad_record"
    LEFT_OVER = "left_over"
    TOMBSTONE = "tombstone"
    NO_NONCE = "no_nonce"
    NO_LEASE = "no_lease"
    STRAY_LEASE = "stray_lease"
    LONG_LEASE = "long_lease"
    NOT_IN_LINE = "not_in_line"
    WRONG_TAG = "wrong_tag"
    WRONG_LINE = "wrong_line"
    GHOST = "ghost"
    UNLISTED_MODEL = "unlisted_model"
    # What a job has generated
    EVENT_IDS = "event_ids"
    BAD_EVENT = "bad_event"
    POSITIONS = "positions"
    LAST_EVENT = "last_event"
    RESULT = "result"
    # The service
    MISSING_PERMITS = "missing_permits"
    BAD_TRIAL = "bad_trial"
    COUNTERS = "counters"


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold.

    Attributes:
        subject: A job's id, or a key.
        expected: What should be there; never a prompt or an output.
        found: What is there instead; never a prompt or an output.
    """

    kind: Kind
    subject: str
    expected: str
    found: str

    def __str__(self) -> str:
        # A key may hold anything, also a line break.
        subject = self.subject if self.subject.isprintable() else repr(self.subject)
        return f"{self.kind} {subject}: expected {self.expected}, found {self.found}"


Problem = tuple[Kind, str, str]
"""Kind, what was expected, what was found: a violation whose subject is known from elsewhere."""

Place = tuple[str, str]
"""Where to look: a key, and an entry of it ('' for the key as a whole)."""

Look = Callable[[SyncRedis, Settings, Sequence[Place]], Iterator["Finding"]]
"""Looks at some places, each at one instant; places that are gone show nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation as one look has shown it. It counts if a second look shows it again.

    Attributes:
        look: What has found it, and can look at `place` again.
        state: Of what it was found on. In another state it is not the same finding.
    """

    violation: Violation
    look: Look
    place: Place
    state: str

    @property
    def identity(self) -> tuple[Kind, Place]:
        """The same in every look at the same place."""
        return self.violation.kind, self.place
