"""What an answer has taken: tokens as OpenAI counts them, and the times of `performance`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.schemas import EngineTimings, JobRecord


def usage_of(records: Sequence[JobRecord]) -> dict[str, Any]:
    """The tokens of some jobs together."""
    num_prompt = sum(record.prompt_tokens or 0 for record in records)
    num_completion = sum(record.completion_tokens for record in records)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(_timings(record).cached_tokens for record in records),
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def performance_of(records: Sequence[JobRecord]) -> dict[str, Any]:
    """The times of some jobs together, in milliseconds: those of the engine are added up.

    Source:
        `004_d314d6d6ae5d2d3d.txt`, "Performance Fields".
    """
    timings = [_timings(record) for record in records]
    created_ms = min(record.created_ms for record in records)
    started_ms = min(record.started_ms or record.created_ms for record in records)
    ended_ms = max(record.ended_ms or started_ms for record in records)
    num_tokens = sum(record.completion_tokens for record in records)
    running_s = (ended_ms - started_ms) / 1000
    return {
        "prefill_time_ms": round(1000 * sum(each.prefill_s for each in timings), 3),
        "decode_time_ms": round(1000 * sum(each.decode_s for each in timings), 3),
        "queue_time_ms": started_ms - created_ms,
        "tokens_per_second": round(num_tokens / running_s, 2) if running_s else 0.0,
        "batch_size": max(each.batch_size for each in timings),
    }


def _timings(record: JobRecord) -> EngineTimings:
    return record.timings or EngineTimings()
