"""A job's record as clients see it: in `/status`, `/result` and the stream's frames."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from common.errors import DeadlineExceededError, EngineError
from common.fleet import Fleet
from common.schemas import ChoiceResult, EngineTimings, JobRecord, JobStatus
from common.scorers import ScoringTask, answer_of, reference
from common.token_logprobs import TokenLogprobs

_MESSAGES = {
    JobStatus.QUEUED: "Task is waiting in the queue",
    JobStatus.PROCESSING: "Task is currently being processed",
    JobStatus.COMPLETED: "Task completed successfully",
    JobStatus.CANCELLED: "Task was cancelled",
    JobStatus.FAILED: "Task failed",
    JobStatus.EXPIRED: "Task ran longer than its time limit",
}
_ERROR_TYPES = {
    JobStatus.FAILED: EngineError.__name__,
    JobStatus.EXPIRED: DeadlineExceededError.__name__,
}


def message_of(record: JobRecord) -> str:
    """One sentence on where the job is; for one that failed, the reason."""
    return record.error_message or _MESSAGES[record.status]


def error_type_of(record: JobRecord) -> str:
    """The class name of what ended a job that failed or expired."""
    return record.error_type or _ERROR_TYPES[record.status]


def status_message(status: JobStatus) -> str:
    """One sentence on a status."""
    return _MESSAGES[status]


def progress_of(record: JobRecord) -> dict[str, int | None]:
    """Tokens generated, and the most there can be; None where that is not known yet."""
    return {"completion_tokens": record.completion_tokens, "max_tokens": _most_tokens(record)}


def status_view(
    record: JobRecord, queue_position: int | None, eta_s: float | None
) -> dict[str, Any]:
    """The body of `/status`."""
    return {
        "status": record.status,
        "task_id": record.job_id,
        "message": message_of(record),
        "queue_position": queue_position,
        "eta_seconds": None if eta_s is None else round(eta_s, 1),
        "progress": progress_of(record),
        "attempt": record.attempts,
        "created_at": _iso(record.created_ms),
        "started_at": _iso(record.started_ms),
        "ended_at": _iso(record.ended_ms),
        "model": record.model,
        "user_id": record.user_id,
        "metadata": record.metadata or {},
    }


def unfinished_view(record: JobRecord) -> dict[str, Any]:
    """The body of `/result` while the job is under way."""
    return {"status": record.status, "task_id": record.job_id, "message": message_of(record)}


def result_view(record: JobRecord) -> dict[str, Any]:
    """The body of `/result` for a job that has ended.

    A failed job's status is `error`. So is that of an expired one, which adds its `state` and what
    it had generated: the pollers of `001_236851b6479a707f.txt` know `completed` and `error` alone
    and would ask for ever.
    """
    if record.status is JobStatus.FAILED:
        return error_view(record)
    if record.status is JobStatus.EXPIRED:
        partial = generated_view(record) if record.choices else {}
        return {**error_view(record), "state": record.status, **partial}
    return {"status": record.status, "task_id": record.job_id, **_made_view(record)}


def _made_view(record: JobRecord) -> dict[str, Any]:
    if record.scoring is not None:
        return scored_view(record, record.scoring)
    return generated_view(record) if record.inputs is None else embedded_view(record)


def error_view(record: JobRecord) -> dict[str, Any]:
    """What went wrong with a job, and at which model."""
    return {
        "status": "error",
        "task_id": record.job_id,
        "error_message": message_of(record),
        "error_type": error_type_of(record),
        "model": record.model if record.scoring is None else reference(record.scoring.scorer),
        **routing_of(record),
    }


def generated_view(record: JobRecord) -> dict[str, Any]:
    """What a job has generated, and what that took."""
    choice = first_choice(record)
    asked = record.sampling.logprobs is not None
    return {
        "result": choice.text,
        "metrics": metrics_of(record),
        "token_ids": [] if record.counted_by is not None else list(choice.token_ids),
        **({"logprobs": logprobs_of(choice.token_ids, choice.logprobs)} if asked else {}),
        "text": choice.text,
        "num_generated": (
            len(choice.token_ids) if record.counted_by is None else record.completion_tokens
        ),
        "finish_reason": choice.finish_reason,
        "model": record.model,
        **routing_of(record),
    }


def routing_of(record: JobRecord) -> dict[str, Any]:
    """Why it was this model, where a router has picked it."""
    return {} if record.routing is None else {"routing": record.routing.view()}


def embedded_view(record: JobRecord) -> dict[str, Any]:
    """What an embedding job has made: nothing where it was cancelled."""
    found = record.embeddings
    return {
        "embeddings": [] if found is None else found.base64s(),
        "encoding_format": "base64",
        "dimensions": None if found is None else found.size,
        "metrics": metrics_of(record),
        "model": record.model,
    }


def scored_view(record: JobRecord, task: ScoringTask) -> dict[str, Any]:
    """What a scoring job has found: nothing where it was cancelled."""
    return {
        "scores": scores_of(record, task),
        "metrics": metrics_of(record),
        "model": reference(task.scorer),
    }


def scores_of(record: JobRecord, task: ScoringTask) -> dict[str, list[float]]:
    """The scores by model, in the order of the prompts; empty where there are none."""
    found = record.embeddings
    return {} if found is None else answer_of(task.models, found.floats())


def logprobs_of(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
) -> list[dict[str, Any]]:
    """How likely each token was, for a job that asked for it."""
    return [each.view(i) for i, each in zip(token_ids, logprobs, strict=True)]


def metrics_of(record: JobRecord) -> dict[str, Any]:
    """Times in seconds and token counts of a job that has ended.

    The time to the first token counts from the submission: it is what the client felt.
    """
    processing_s = _between(record.started_ms, record.ended_ms)
    num_tokens = record.completion_tokens
    timings = record.timings or EngineTimings()
    return {
        "queue_wait_time": _between(record.created_ms, record.started_ms or record.ended_ms),
        "processing_time": processing_s,
        "total_time": _between(record.created_ms, record.ended_ms),
        "prompt_tokens": record.prompt_tokens or 0,
        "completion_tokens": num_tokens,
        "tokens_per_second": round(num_tokens / processing_s, 2) if processing_s else 0.0,
        "time_to_first_token": (
            None
            if record.first_token_ms is None
            else _between(record.created_ms, record.first_token_ms)
        ),
        "prefill_time": round(timings.prefill_s, 3),
        "decode_time": round(timings.decode_s, 3),
        "batch_size": timings.batch_size,
        "cached_tokens": timings.cached_tokens,
        "attempts": record.attempts,
        **({} if record.counted_by is None else {"counted_by": record.counted_by}),
    }


def first_choice(record: JobRecord) -> ChoiceResult:
    """The generated text; an empty one where there is none."""
    if record.choices:
        return record.choices[0]
    return ChoiceResult(text="", token_ids=(), finish_reason=record.status)


def eta_s(
    record: JobRecord,
    queue_position: int | None,
    fleet: Fleet | None,
    seconds_per_token: float | None,
) -> float | None:
    """Seconds until the job will have ended, roughly; None where nothing is known.

    While it runs: the tokens that may still come, at the pace so far; it may end sooner. While it
    waits: jobs in front, taken to be as long as this one, in rounds of as many as the live workers
    run at once, and then itself.
    """
    if record.status is JobStatus.PROCESSING:
        return _eta_of_running(record)
    if record.status is not JobStatus.QUEUED or queue_position is None or fleet is None:
        return None
    num_tokens = record.sampling.max_tokens
    # Without tokens to come, where a prompt is scored or inputs are embedded, nothing is known.
    if seconds_per_token is None or not num_tokens or fleet.num_slots == 0:
        return None
    in_front = max(0, fleet.running + queue_position - fleet.num_slots)
    return seconds_per_token * num_tokens * (in_front / fleet.num_slots + 1)


def _eta_of_running(record: JobRecord) -> float | None:
    done, most = record.completion_tokens, _most_tokens(record)
    if not done or most is None:
        return None
    return record.used_ms / 1000 / done * max(0, most - done)


def _most_tokens(record: JobRecord) -> int | None:
    most = record.sampling.max_tokens
    return None if most is None else most * record.sampling.n


def _between(start_ms: int | None, end_ms: int | None) -> float:
    if start_ms is None or end_ms is None:
        return 0.0
    return round((end_ms - start_ms) / 1000, 3)


def _iso(time_ms: int | None) -> str | None:
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
