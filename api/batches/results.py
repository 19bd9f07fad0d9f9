"""What came out of a batch's lines so far: the counts, and the entries that are in no part yet.

Source:
    OpenAI's API reference, the request output object of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from api.batches.parts import Kind, Part
from api.batches.requests import LineError
from api.openai.errors import error_body
from common.batch_store import BatchRecord, BatchStatus
from common.errors import RequestError

MAX_TOLD = 100
"""Malformed lines that the batch itself tells of; all are in the error file."""
_REASONS = {
    BatchStatus.CANCELLED: "the batch was cancelled",
    BatchStatus.EXPIRED: "the completion window was over",
}


class Results:
    """Entries and counts of one batch.

    Attributes:
        part: The entries that are in no part yet.
    """

    def __init__(self, record: BatchRecord) -> None:
        """Go on with what the record counts."""
        self._batch_id = record.batch_id
        self._counts = {
            "completed": record.completed,
            "failed": record.failed,
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "cached_tokens": record.cached_tokens,
            "output_parts": record.output_parts,
            "error_parts": record.error_parts,
        }
        self._told = list(record.errors)
        self.part = self._new_part()

    @property
    def num_parts(self) -> dict[Kind, int]:
        """Parts of each kind, which is also the number of the next one."""
        return {"output": self._counts["output_parts"], "error": self._counts["error_parts"]}

    @property
    def num_lines(self) -> int:
        """Lines that have an entry."""
        return self._counts["completed"] + self._counts["failed"]

    def add_answer(self, number: int, custom_id: str, body: dict[str, Any]) -> None:
        """A line was answered."""
        response = {"status_code": 200, "request_id": self.request_id(number), "body": body}
        self._add("output", number, custom_id, response, None)
        usage: Mapping[str, Any] = body.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        self._counts["prompt_tokens"] += usage.get("prompt_tokens", 0)
        self._counts["completion_tokens"] += usage.get("completion_tokens", 0)
        self._counts["cached_tokens"] += details.get("cached_tokens", 0)

    def add_failure(self, number: int, custom_id: str, error: RequestError) -> None:
        """A line was refused as its endpoint would refuse it, or its job has failed."""
        request_id = self.request_id(number)
        body = error_body(error, error.message, request_id)
        response = {"status_code": error.status, "request_id": request_id, "body": body}
        self._add("error", number, custom_id, response, None)

    def add_malformed(self, number: int, error: LineError) -> None:
        """A line was no request."""
        told = told_of(error.code, error.message, error.param, number)
        self._add("error", number, error.custom_id, None, told)
        if len(self._told) < MAX_TOLD and told not in self._told:
            self._told.append(told)

    def add_unrun(self, number: int, custom_id: str | None, status: BatchStatus) -> None:
        """The batch ended before a line was answered."""
        message = f"Not answered before {_REASONS[status]}."
        told = {"code": f"batch_{status}", "message": message}
        self._add("error", number, custom_id, None, told)

    def count_part(self) -> dict[str, Any]:
        """Count the part as written, and begin another one; the record's new fields."""
        for kind, lines in self.part.lines.items():
            self._counts[f"{kind}_parts"] += bool(lines)
        self.part = self._new_part()
        return {**self._counts, "errors": json.dumps(self._told)}

    def request_id(self, number: int) -> str:
        """Names the request of a line, in its entry and in logs."""
        return f"batch_req_{self._batch_id.removeprefix('batch_')}_{number}"

    def _new_part(self) -> Part:
        return Part(sum(self.num_parts.values()))

    def _add(
        self, kind: Kind, number: int, custom_id: str | None, response: Any, error: Any
    ) -> None:
        entry = {
            "id": self.request_id(number),
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        self.part.add(kind, number, entry)
        self._counts["completed" if kind == "output" else "failed"] += 1


def told_of(code: str, message: str, param: str | None, line: int | None) -> dict[str, Any]:
    """An error as the batch, or an entry, tells it."""
    return {"code": code, "message": message, "param": param, "line": line}
