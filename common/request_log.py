"""One line in `llm_requests.log` for each job, written by whoever ended it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from common.log import REQUEST_LOGGER
from common.schemas import EngineTimings, JobRecord, Outcome

OnEnd = Callable[[JobRecord, Outcome], None]

_log = logging.getLogger(REQUEST_LOGGER)


def request_logger(*, log_prompts: bool) -> OnEnd:
    """A function that writes the line of an ended job; texts only where `log_prompts` is true.

    The function takes the record, as it was read before or after the end, and the outcome.
    """

    def write(record: JobRecord, outcome: Outcome) -> None:
        fields = _fields(record, outcome)
        if log_prompts:
            fields["prompt_ids"] = record.prompt_ids
            fields["inputs"] = record.inputs
            fields["output"] = [choice.text for choice in outcome.choices]
        _log.info("job ended", extra=fields)

    return write


def outcome_of(record: JobRecord) -> Outcome:
    """The outcome that an ended job's record tells of."""
    return Outcome(
        status=record.status,
        choices=record.choices,
        prompt_tokens=record.prompt_tokens or 0,
        timings=record.timings or EngineTimings(),
        error_type=record.error_type,
        error_message=record.error_message,
    )


def _fields(record: JobRecord, outcome: Outcome) -> dict[str, Any]:
    choices = outcome.choices
    return {
        "event": "job_ended",
        "task_id": record.job_id,
        "request_id": record.request_id,
        "key_id": record.key_id,
        "user_id": record.user_id,
        "model": record.model,
        "status": outcome.status.value,
        "finish_reason": choices[0].finish_reason if choices else None,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": (
            sum(len(choice.token_ids) for choice in choices)
            if outcome.completion_tokens is None
            else outcome.completion_tokens
        ),
        "attempts": record.attempts,
        "queue_s": _seconds(record.created_ms, record.started_ms),
        "prefill_s": outcome.timings.prefill_s,
        "decode_s": outcome.timings.decode_s,
        "error_type": outcome.error_type,
    }


def _seconds(start_ms: int, end_ms: int | None) -> float | None:
    return None if end_ms is None else (end_ms - start_ms) / 1000
