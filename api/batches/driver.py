"""Drives one batch: lines in, jobs out, answers into parts, parts into files.

At most a window of lines is open at a time. A line is opened in the batch's record before its jobs
are submitted, under ids made of batch and line, and closed in the step that counts the part which
holds its answer. So a driver that takes over submits every open line again, which changes nothing
where the jobs exist, and no answer is lost or written twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from api.background import end
from api.batches.answers import LineAnswers
from api.batches.lines import InputLine, LineReader, count_lines
from api.batches.parts import Kind, assemble, discard
from api.batches.requests import LineError, LineRequest, custom_id_of, read_line
from api.batches.results import Results, told_of
from api.files import Files, path_of
from api.fleet_poller import FleetPoller
from api.openai.call_maker import CallMaker
from api.submission import Submitter
from common.batch_store import Batches, BatchLostError, BatchStatus, Step, TakenBatch
from common.errors import (
    FileStoreError,
    GatewayBusyError,
    InvalidRequestError,
    QueueFullError,
    RedisUnavailableError,
    RequestError,
)
from common.file_records import FileRecord
from common.job_store import Submissions
from common.settings import Settings

MAX_LINES = 50_000
LEAST_WINDOW, MOST_WINDOW = 16, 256
POLL_S = 0.25
RETRY_S = 1.0
RENEWALS_PER_LEASE = 3
LINES_AT_ONCE = 64
"""That are read without letting anybody else run."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What every driver works with."""

    settings: Settings
    batches: Batches
    files: Files
    jobs: Submissions
    submitter: Submitter
    calls: CallMaker
    poller: FleetPoller
    answers: LineAnswers


@dataclass(slots=True)
class _OpenLine:
    """A line under way.

    Attributes:
        group_id: Of its jobs; None before they are submitted.
    """

    request: LineRequest
    group_id: str | None = None
    job_ids: list[str] = field(default_factory=list)


class _UnusableInputError(Exception):
    """The batch as a whole cannot be run."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BatchDriver:
    """Drives a batch that was taken, to its end or until it is lost."""

    def __init__(self, tools: Tools, taken: TakenBatch) -> None:
        self._tools = tools
        self._record = taken.record
        self._reopened = taken.open_lines
        self._nonce = taken.nonce
        self._step = taken.record.step
        self._is_cancelled = taken.record.cancelling_ms is not None
        self._is_lost = False
        self._open: dict[int, _OpenLine] = {}
        self._names: set[str] = set()
        self._total = taken.record.total
        self._results = Results(taken.record)

    async def run(self) -> None:
        """Drive until the batch has ended, another driver has it, or this is cancelled."""
        renewing = asyncio.create_task(self._renew())
        try:
            await self._run()
        except BatchLostError:
            _log.warning("The batch %s is another driver's", self._record.batch_id)
        finally:
            await end(renewing)

    async def release(self) -> None:
        """Let another driver go on at once.

        Raises:
            BatchLostError: One has it already.
            RedisUnavailableError: Redis is away; the lease will pass.
        """
        await self._tools.batches.release(self._record.batch_id, self._nonce)

    async def _run(self) -> None:
        fields: Mapping[str, Any] = {}
        status = self._record.ending_as or BatchStatus.COMPLETED
        if self._record.ending_as is None:
            try:
                await self._work()
                status = self._stopped_as or BatchStatus.COMPLETED
            except _UnusableInputError as error:
                status = BatchStatus.FAILED
                fields = {"errors": json.dumps([told_of(error.code, error.message, None, None)])}
            fields = {**fields, "finalizing_ms": _now_ms(), "ending_as": status}
            await self._take_step(Step({"status": BatchStatus.FINALIZING, **fields}))
        await self._finish(status)

    async def _work(self) -> None:
        """Answer every line, or as many as there is time for."""
        store, path = self._tools.files.store, path_of(self._record.input_file)
        size = await self._patiently(lambda: store.size(path))
        if size is None:
            raise _UnusableInputError("input_file_missing", "The input file was deleted.")
        if self._total is None:
            # Each try from the beginning: a count that broke off is worth nothing.
            await self._count(lambda: LineReader(store, path, size))
        reader = LineReader(store, path, size)
        await self._reopen(reader)
        while await self._advance(reader):
            pass
        await self._flush()
        assert self._results.num_lines == self._total, "a line was lost or counted twice"

    async def _count(self, open_input: Callable[[], LineReader]) -> None:
        total = await self._patiently(lambda: count_lines(open_input(), MAX_LINES))
        if total == 0:
            raise _UnusableInputError("empty_file", "The input file has no requests.")
        if total > MAX_LINES:
            raise _UnusableInputError(
                "too_many_lines", f"The input file must have at most {MAX_LINES} requests."
            )
        self._total = total
        fields = {"total": total, "in_progress_ms": _now_ms()}
        await self._take_step(Step({"status": BatchStatus.IN_PROGRESS, **fields}))

    async def _reopen(self, reader: LineReader) -> None:
        """Go on where the driver before this one was.

        What was read is read again: for the lines that were open, and for the names of the others.
        """
        while reader.number < self._record.line:
            line = await self._next(reader)
            assert line is not None, "the input was longer"
            if line.number in self._reopened:
                await self._begin(line)
            elif (name := custom_id_of(line)) is not None:
                self._names.add(name)

    async def _advance(self, reader: LineReader) -> bool:
        """One round; False once every line is in a part, or waits for nothing else."""
        has_more = await self._fill(reader)
        stopped_as = self._stopped_as
        if stopped_as is None:
            await self._submit()
        else:
            await self._stop(stopped_as)
        await self._harvest()
        if self._results.part.is_due:
            await self._flush()
        if self._is_lost:
            raise BatchLostError(self._record.batch_id)
        if self._open:
            await asyncio.sleep(POLL_S)
        return bool(self._open) or has_more

    @property
    def _stopped_as(self) -> BatchStatus | None:
        """What the batch ends as before its time, where it does."""
        if self._is_cancelled:
            return BatchStatus.CANCELLED
        return BatchStatus.EXPIRED if _now_ms() >= self._record.expires_ms else None

    @property
    def _window(self) -> int:
        fleet = self._tools.poller.fleet
        num_slots = 0 if fleet is None else fleet.num_slots
        return min(max(LEAST_WINDOW, 2 * num_slots), MOST_WINDOW)

    async def _fill(self, reader: LineReader) -> bool:
        """Open lines until the window is full; whether there may be more in the input."""
        lines: list[InputLine] = []
        has_more = True
        while has_more and len(self._open) + len(lines) < self._window:
            line = await self._next(reader)
            has_more = line is not None
            if line is not None and not line.is_blank:
                lines.append(line)
        if lines:
            fields = {"line": reader.number}
            await self._take_step(Step(fields, opened=[line.number for line in lines]))
            for each in lines:
                await self._begin(each)
        return has_more

    async def _next(self, reader: LineReader) -> InputLine | None:
        if reader.number % LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
        return await self._patiently(reader.next)

    async def _begin(self, line: InputLine) -> None:
        name = custom_id_of(line)
        try:
            self._check_name(name)
            read = partial(read_line, line, self._record.endpoint, self._tools.calls)
            request = await self._patiently(read)
        except LineError as error:
            self._results.add_malformed(line.number, error)
        except InvalidRequestError as error:
            assert name is not None, "a request has a name"
            self._results.add_failure(line.number, name, error)
        else:
            self._open[line.number] = _OpenLine(request)

    def _check_name(self, name: str | None) -> None:
        if name in self._names:
            raise LineError(
                "duplicate_custom_id",
                "custom_id must be unique in its file; a line before this one has it.",
                "custom_id",
                name,
            )
        if name is not None:
            self._names.add(name)

    async def _submit(self) -> None:
        """Submit what is open and was not submitted yet; what finds no room is tried again."""
        for number, opened in list(self._open.items()):
            if opened.group_id is not None:
                continue
            try:
                await self._submit_line(number, opened)
            except (QueueFullError, GatewayBusyError, RedisUnavailableError):
                await asyncio.sleep(RETRY_S)
                return
            except RequestError as error:
                del self._open[number]
                self._results.add_failure(number, opened.request.custom_id, error)

    async def _submit_line(self, number: int, opened: _OpenLine) -> None:
        job = self._tools.answers.job_of(opened.request.call, self._record.batch_id, number)
        accepted = await self._tools.submitter.submit(
            job, self._record.key_id, self._results.request_id(number)
        )
        opened.group_id = accepted.group_id
        opened.job_ids = [job.job_id for job in accepted.jobs]

    async def _stop(self, status: BatchStatus) -> None:
        """Cancel what is open: what has been answered stays."""
        for number, opened in list(self._open.items()):
            if opened.group_id is None:
                del self._open[number]
                self._results.add_unrun(number, opened.request.custom_id, status)
                continue
            for job_id in opened.job_ids:
                cancel = partial(self._tools.answers.cancel, job_id, self._record.key_id)
                await self._patiently(cancel)

    async def _harvest(self) -> None:
        """Take the answers of lines whose jobs have all ended."""
        submitted = {n: opened for n, opened in self._open.items() if opened.job_ids}
        asked = [job_id for opened in submitted.values() for job_id in opened.job_ids]
        if not asked:
            return
        ended = await self._patiently(lambda: self._tools.jobs.ended(asked))
        for number, opened in submitted.items():
            if ended.issuperset(opened.job_ids):
                await self._take_answer(number, opened)

    async def _take_answer(self, number: int, opened: _OpenLine) -> None:
        request, group_id = opened.request, opened.group_id
        assert group_id is not None
        status = self._stopped_as
        try:
            body = await self._patiently(
                lambda: self._tools.answers.of(request.call, group_id, opened.job_ids)
            )
        except RequestError as error:
            if status is None:
                self._results.add_failure(number, request.custom_id, error)
            else:
                self._results.add_unrun(number, request.custom_id, status)
        else:
            self._results.add_answer(number, request.custom_id, body)
        del self._open[number]

    async def _flush(self) -> None:
        """Write the entries as parts, then count these and close their lines in one step."""
        part, places = self._results.part, self._results.num_parts
        if not part.numbers:
            return
        store, batch_id = self._tools.files.store, self._record.batch_id
        await self._patiently(lambda: part.write(store, batch_id, places))
        await self._take_step(Step(self._results.count_part(), closed=part.numbers))

    async def _finish(self, status: BatchStatus) -> None:
        """Put the parts together, end the batch, and delete the parts."""
        output = await self._assemble("output")
        errors = await self._assemble("error")
        fields: dict[str, Any] = {"status": status, "ended_ms": _now_ms()}
        if output is not None:
            fields["output_file"] = output.file_id
        if errors is not None:
            fields["error_file"] = errors.file_id
        await self._take_step(Step(fields))
        _log.info("The batch %s ended as %s", self._record.batch_id, status)
        for kind, count in self._results.num_parts.items():
            try:
                await discard(self._tools.files.store, self._record.batch_id, kind, count)
            except FileStoreError:
                _log.warning("Parts of %s could not be deleted", self._record.batch_id)

    async def _assemble(self, kind: Kind) -> FileRecord | None:
        record, count = self._record, self._results.num_parts[kind]
        return await self._patiently(
            lambda: assemble(self._tools.files, record.batch_id, record.key_id, kind, count)
        )

    async def _take_step(self, step: Step) -> None:
        self._step += 1
        batch_id, number = self._record.batch_id, self._step
        self._is_cancelled |= await self._patiently(
            lambda: self._tools.batches.write(batch_id, self._nonce, number, step)
        )

    async def _renew(self) -> None:
        """Keep the lease, and hear of a cancel, until cancelled or until the batch is lost."""
        while not self._is_lost:
            await asyncio.sleep(self._tools.settings.lease_s / RENEWALS_PER_LEASE)
            try:
                self._is_cancelled |= await self._tools.batches.write(
                    self._record.batch_id, self._nonce, 0, Step()
                )
            except RedisUnavailableError:
                continue
            except BatchLostError:
                self._is_lost = True

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call while Redis or the store of files is away: every one is safe to repeat."""
        while True:
            try:
                return await call()
            except (RedisUnavailableError, GatewayBusyError, FileStoreError):
                await asyncio.sleep(RETRY_S)
            except FileNotFoundError as error:
                raise _UnusableInputError(
                    "input_file_missing", "The input file was deleted."
                ) from error


def _now_ms() -> int:
    return int(time.time() * 1000)
