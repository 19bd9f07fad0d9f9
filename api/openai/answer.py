"""What every endpoint's answer has: its head, and the calls that make its bodies and chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.deltas import ChoiceDelta
from common.model_card import ModelCard
from common.schemas import JobRecord

FINGERPRINT_CHARS = 10


@dataclass(frozen=True, slots=True)
class Head:
    """What stands at the head of an answer and of each of its chunks.

    Attributes:
        answer_id: `chatcmpl-...` or `cmpl-...`.
        created_s: When the request was accepted, in seconds since the epoch.
        model: Its id, whatever the request called it.
        fingerprint: Of the model's weights; None where no worker has told yet.
    """

    answer_id: str
    created_s: int
    model: str
    fingerprint: str | None

    def body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An answer or a chunk, as far as all are the same."""
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


class Answer(Protocol):
    """The answer of one endpoint to one request."""

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """The body for ended jobs."""

    def opening(self) -> list[dict[str, Any]]:
        """The chunks that come before the first token."""

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """The chunks for what a choice has gained; its choice counts over all jobs."""

    def closing(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """The chunk without choices that tells the usage."""


def fingerprint_of(card: ModelCard | None) -> str | None:
    """A short name for weights, configuration and dtype."""
    if card is None:
        return None
    return "fp_" + hashlib.sha256(card.fingerprint.encode()).hexdigest()[:FINGERPRINT_CHARS]
