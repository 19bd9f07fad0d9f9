"""Batches: what is known of each, and who drives it.

A batch is driven by one gateway at a time, under a lease: it reads lines, submits their jobs, and
writes what came out in parts. Everything that a successor needs is here, and changes in steps, each
one Lua script. Knows nothing about HTTP, and nothing about what is in a line.

Fields of a batch's hash (`keys.batch`), times in milliseconds since the epoch:
    create  key status request (its hash) endpoint input_file window metadata created_ms
            expires_ms step=0
    take    nonce: the fence; only its holder's steps are taken
    steps   status step total line completed failed prompt_tokens completion_tokens
            cached_tokens output_parts error_parts errors in_progress_ms finalizing_ms ending_as
            ended_ms output_file error_file
    cancel  status=cancelling cancelling_ms
Its open lines (`keys.batch_lines`): the numbers of those that were read and are in no part yet; 1
is the first line of the input.

Raises:
    RedisUnavailableError: Redis is away. Repeat the call: every one is safe to repeat.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, cast

from common import keys
from common.connection import AsyncRedis, Script, pairs, translated_errors
from common.errors import (
    BatchNotFoundError,
    IdempotencyMismatchError,
    QueueFullError,
)

BATCH_TTL_S = 30 * 86_400
MOST_UNFINISHED = 64
RETRY_S = 60.0


class BatchStatus(StrEnum):
    """Where a batch is. The last four are final."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended."""
        return self in (
            BatchStatus.COMPLETED,
            BatchStatus.FAILED,
            BatchStatus.EXPIRED,
            BatchStatus.CANCELLED,
        )


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A batch as its client asks for it.

    Attributes:
        batch_id: Equal for two requests with the same idempotency key.
        request: A hash of the request, to tell a repeat from another one.
        endpoint: Where its lines go, such as /v1/chat/completions.
        window: As the client said it, such as 24h.
        lifetime_ms: What the window amounts to.
    """

    batch_id: str
    key_id: str
    request: str
    endpoint: str
    input_file: str
    window: str
    expires_ms: int
    metadata: Mapping[str, str] | None = None

    def to_fields(self) -> dict[str, str]:
        """The hash's fields, without those that the script adds."""
        record = {
            "request": self.request,
            "endpoint": self.endpoint,
            "input_file": self.input_file,
            "window": self.window,
            "expires_ms": str(self.expires_ms),
        }
        if self.metadata is not None:
            record["metadata"] = json.dumps(self.metadata)
        return record


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as it stands.

    Attributes:
        step: Number of the last step.
        total: Lines of the input that are not empty; None before they were counted.
        line: Lines of the input that have been read, empty ones too.
        completed: Lines whose answer is in the output.
        failed: Lines whose error is in the error file.
        output_parts: How many parts of the output there are; error_parts likewise.
        errors: The first malformed lines, as OpenAI tells them.
        cancelling_ms: When its end was asked for.
        ending_as: What it will be, once its parts are put together.
    """

    batch_id: str
    key_id: str
    status: BatchStatus
    endpoint: str
    input_file: str
    window: str
    created_ms: int
    expires_ms: int
    step: int = 0
    metadata: Mapping[str, str] | None = None
    total: int | None = None
    line: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    output_parts: int = 0
    error_parts: int = 0
    errors: tuple[dict[str, Any], ...] = ()
    in_progress_ms: int | None = None
    finalizing_ms: int | None = None
    cancelling_ms: int | None = None
    ended_ms: int | None = None
    output_file: str | None = None
    error_file: str | None = None
    ending_as: BatchStatus | None = None

    @classmethod
    def from_fields(cls, batch_id: str, record: Mapping[str, str]) -> Self:
        """Read a hash."""
        numbers = {name: int(record[name]) for name in _NUMBERS if name in record}
        return cls(
            batch_id=batch_id,
            key_id=record["key"],
            status=BatchStatus(record["status"]),
            endpoint=record["endpoint"],
            input_file=record["input_file"],
            window=record["window"],
            metadata=json.loads(record["metadata"]) if "metadata" in record else None,
            errors=tuple(json.loads(record.get("errors", "[]"))),
            output_file=record.get("output_file"),
            error_file=record.get("error_file"),
            ending_as=BatchStatus(record["ending_as"]) if "ending_as" in record else None,
            **numbers,
        )


_NUMBERS = (
    *("created_ms", "expires_ms", "step", "total", "line", "completed", "failed"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "output_parts", "error_parts"),
    *("in_progress_ms", "finalizing_ms", "cancelling_ms", "ended_ms"),
)


@dataclass(frozen=True, slots=True)
class TakenBatch:
    """A batch that a driver has taken, with the fence for its steps."""

    record: BatchRecord
    open_lines: frozenset[int]
    nonce: str


@dataclass(frozen=True, slots=True)
class Step:
    """A change of a batch.

    Attributes:
        fields: New values of fields.
        opened: Numbers of lines that were read.
        closed: Of lines that are in a part now.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    opened: Sequence[int] = ()
    closed: Sequence[int] = ()


class BatchLostError(Exception):
    """Another driver has the batch."""


class Batches:
    """The gateway's: accept, look up, cancel, and drive."""

    _create = Script("batch_create")
    _take = Script("batch_take")
    _write = Script("batch_write")
    _cancel = Script("batch_cancel")

    def __init__(self, client: AsyncRedis, lease_s: float) -> None:
        self._client = client
        self._lease_ms = int(lease_s * 1000)

    async def create(self, spec: BatchSpec) -> BatchRecord:
        """Accept a batch; a repeat gets the one that there is.

        Raises:
            IdempotencyMismatchError: The same id came with another request.
            QueueFullError: The key has too many that are not finished.
        """
        fields = [part for pair in spec.to_fields().items() for part in pair]
        with translated_errors():
            answer, *values = await self._create.acall(
                self._client, spec.batch_id, spec.key_id, MOST_UNFINISHED, BATCH_TTL_S, *fields
            )
        if answer == "mismatch":
            raise IdempotencyMismatchError(
                "This Idempotency-Key came with another request before.", param="Idempotency-Key"
            )
        if answer == "full":
            raise QueueFullError(
                f"At most {MOST_UNFINISHED} batches of a key may be under way; {values[0]} are.",
                retry_after_s=RETRY_S,
            )
        return BatchRecord.from_fields(spec.batch_id, pairs(values[0]))

    async def get(self, batch_id: str, key_id: str) -> BatchRecord:
        """A batch that belongs to the key.

        Raises:
            BatchNotFoundError: There is none, or it belongs to another key.
        """
        with translated_errors():
            fields = await cast(Any, self._client.hgetall(keys.batch(batch_id)))
        if not fields or fields["key"] != key_id:
            raise _not_found(batch_id)
        return BatchRecord.from_fields(batch_id, fields)

    async def page(
        self, key_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[BatchRecord], bool]:
        """Batches of a key, newest first, and whether there are more.

        Raises:
            BatchNotFoundError: `after` is no batch of the key.
        """
        start = 0
        if after is not None:
            with translated_errors():
                place = await cast(Any, self._client.zrevrank(keys.batches(key_id), after))
            if place is None:
                raise _not_found(after)
            start = int(place) + 1
        with translated_errors():
            ids = await cast(
                Any, self._client.zrevrange(keys.batches(key_id), start, start + limit)
            )
            pipe = self._client.pipeline(transaction=False)
            for batch_id in ids:
                pipe.hgetall(keys.batch(batch_id))
            hashes = await pipe.execute()
        found = [BatchRecord.from_fields(i, h) for i, h in zip(ids, hashes, strict=True) if h]
        return found[:limit], len(ids) > limit

    async def cancel(self, batch_id: str, key_id: str) -> BatchRecord:
        """Ask for a batch's end; what was done of it stays.

        Raises:
            BatchNotFoundError: There is none, or it belongs to another key.
        """
        with translated_errors():
            fields = await self._cancel.acall(self._client, batch_id, key_id)
        if not fields:
            raise _not_found(batch_id)
        return BatchRecord.from_fields(batch_id, pairs(fields))

    async def take(self, nonce: str | None = None) -> TakenBatch | None:
        """Drive a batch that nobody drives, or None where there is none."""
        nonce = nonce or uuid.uuid4().hex
        with translated_errors():
            answer = await self._take.acall(self._client, nonce, self._lease_ms)
        if not answer:
            return None
        batch_id, fields, lines = answer
        record = BatchRecord.from_fields(batch_id, pairs(fields))
        return TakenBatch(record, frozenset(map(int, lines)), nonce)

    async def release(self, batch_id: str, nonce: str) -> None:
        """Let another driver have the batch at once.

        Raises:
            BatchLostError: Another driver has it.
        """
        await self._written(batch_id, nonce, 0, 0, Step())

    async def write(self, batch_id: str, nonce: str, number: int, step: Step) -> bool:
        """Take a step.

        Args:
            batch_id: The batch.
            nonce: Of the driver's `take`.
            number: The step's; 0 renews the lease and nothing else.
            step: What changes.

        Returns:
            Whether the batch's end was asked for.

        Raises:
            BatchLostError: Another driver has it.
        """
        return await self._written(batch_id, nonce, self._lease_ms, number, step)

    async def _written(
        self, batch_id: str, nonce: str, lease_ms: int, number: int, step: Step
    ) -> bool:
        fields = [part for pair in step.fields.items() for part in pair]
        with translated_errors():
            answer = await self._write.acall(
                self._client,
                *(batch_id, nonce, lease_ms, number, BATCH_TTL_S),
                *(len(step.fields), *fields),
                *(len(step.opened), *step.opened),
                *step.closed,
            )
        if not answer:
            raise BatchLostError(batch_id)
        return bool(answer[1])


def _not_found(batch_id: str) -> BatchNotFoundError:
    return BatchNotFoundError(f"Batch '{batch_id}' not found")
