"""One line in `llm_requests.log` for each job that this worker ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from common.log import REQUEST_LOGGER
from common.schemas import JobRecord, Outcome

log = logging.getLogger(REQUEST_LOGGER)


def request_logger(*, log_prompts: bool) -> Callable[[JobRecord, Outcome], None]:
    """A function that writes the line of an ended job; texts only where `log_prompts` is true."""

    def write(record: JobRecord, outcome: Outcome) -> None:
        choice = outcome.choices[0] if outcome.choices else None
        fields: dict[str, Any] = {
            "event": "job_ended",
            "task_id": record.job_id,
            "request_id": record.request_id,
            "key_id": record.key_id,
            "user_id": record.user_id,
            "model": record.model,
            "status": outcome.status.value,
            "finish_reason": choice.finish_reason if choice else None,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": len(choice.token_ids) if choice else 0,
            "attempts": record.attempts,
            "queue_s": _seconds(record.created_ms, record.started_ms),
            "prefill_s": outcome.timings.prefill_s,
            "decode_s": outcome.timings.decode_s,
            "error_type": outcome.error_type,
        }
        if log_prompts:
            fields["prompt_ids"] = record.prompt_ids
            fields["output"] = choice.text if choice else ""
        log.info("job ended", extra=fields)

    return write


def _seconds(start_ms: int, end_ms: int | None) -> float | None:
    return None if end_ms is None else (end_ms - start_ms) / 1000
