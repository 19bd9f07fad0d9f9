"""Run many sequences at once, one token a step: drain inbox, schedule, run, sample, postprocess.

One thread steps the engine; any thread may add and abort. Knows nothing about
jobs, queues or HTTP.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.detokenizer import TokenTable
from worker.engine.errors import DeviceLostError, RequestError
from worker.engine.live_sequence import LiveSequence
from worker.engine.loader import LoadedModel
from worker.engine.runner import Chunk, Runner
from worker.engine.runner_choice import choose_runner
from worker.engine.sampler import sample
from worker.engine.scheduler import PREFILL_BUDGET_TOKENS, Scheduler
from worker.engine.sequence import FinishReason, Output, Request, Timings
from worker.engine.transcript import Transcript
from worker.engine.validation import validate

logger = logging.getLogger(__name__)

MAX_FAILED_IN_A_ROW = 3
"""Sequences that fail alone, with none that succeeds between, before the device counts as lost."""

_Plan = list[tuple[LiveSequence, int]]


@dataclass(frozen=True, slots=True)
class _Arrival:
    request: Request
    arrived_s: float


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str
    reason: FinishReason


class Engine:
    """The continuous batch of one loaded model.

    `add`, `abort`, `wait` and the properties are thread-safe; `step` and
    `check_integrity` belong to the engine's thread.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_batch_size: int,
        clock: Callable[[], float] = time.monotonic,
        runner: Runner | None = None,
        prefill_budget_tokens: int = PREFILL_BUDGET_TOKENS,
    ) -> None:
        """Start with nothing to do.

        Args:
            loaded: The model, which only this engine's thread may run from now on.
            max_batch_size: Sequences that may run at once.
            clock: Seconds, never going back.
            runner: Runs the forward passes; by default what `choose_runner` finds best.
            prefill_budget_tokens: Prompt tokens a step at most, over all sequences.
        """
        self._loaded = loaded
        self._clock = clock
        self._runner = runner or choose_runner(loaded, max_batch_size)
        self._scheduler = Scheduler(max_batch_size, self._place, prefill_budget_tokens)
        self._table = TokenTable(loaded.tokenizer.backend_tokenizer)
        self._inbox: list[_Arrival | _Abort] = []
        self._inbox_changed = threading.Condition()
        self._num_unfinished = 0
        self._num_arrived = 0
        self._num_failed_in_a_row = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        with self._inbox_changed:
            return bool(self._inbox) or self._num_unfinished > 0

    @property
    def num_running(self) -> int:
        """Sequences in the batch, those in prefill counted."""
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Sequences added but not admitted to the batch yet."""
        with self._inbox_changed:
            return max(0, self._num_unfinished - self._scheduler.num_running)

    def add(self, request: Request) -> None:
        """Hand in a request; the next step sees it, and reports what is wrong with it."""
        with self._inbox_changed:
            self._inbox.append(_Arrival(request, self._clock()))
            self._num_unfinished += 1
            self._inbox_changed.notify_all()

    def abort(self, request_id: str, reason: FinishReason) -> None:
        """End all choices of a request at the next step; an unknown id is no error."""
        with self._inbox_changed:
            self._inbox.append(_Abort(request_id, reason))
            self._inbox_changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Block until something has been added or aborted, and return whether that is so."""
        with self._inbox_changed:
            return self._inbox_changed.wait_for(lambda: bool(self._inbox), timeout_s)

    def step(self) -> list[Output]:
        """Advance every sequence in the batch by one token or one chunk of its prompt.

        Raises:
            DeviceLostError: No forward pass works any more; the sequences are left as they are.

        Returns:
            At most one output per sequence and step, except that one which is added
            and aborted before the same step, or a duplicate, has its own.
        """
        outputs = [*self._drain_inbox(), *self._end_overdue()]
        plan = self._scheduler.plan(self._clock())
        if plan:
            outputs += self._run(plan)
        with self._inbox_changed:
            self._num_unfinished -= sum(output.finish_reason is not None for output in outputs)
        return outputs

    def text_of_committed(self, request: Request) -> str:
        """Return the text that the request's committed ids gave when they were new.

        Text held back at their end is not in it. Thread-safe.

        Raises:
            RequestError: The request is not one that this engine could resume.
        """
        self._validate(request)
        transcript = Transcript(request, self._table, self._loaded.eos_ids)
        return transcript.replay(request.committed_ids)

    def check_integrity(self) -> None:
        """Assert that inbox, scheduler and cache tell the same story.

        Raises:
            AssertionError: Their books disagree, which is a bug of the engine.
        """
        self._scheduler.check_integrity()
        sequences = list(self._scheduler)
        names = [(s.request.request_id, s.request.choice) for s in sequences]
        assert len(names) == len(set(names)), f"a request is scheduled twice: {names}"
        self._runner.check_integrity({s.key: s.num_cached for s in sequences if s.num_cached})
        with self._inbox_changed:
            num_added = sum(isinstance(item, _Arrival) for item in self._inbox)
            assert self._num_unfinished == len(sequences) + num_added

    def _drain_inbox(self) -> Iterator[Output]:
        with self._inbox_changed:
            items, self._inbox = self._inbox, []
        for item in items:
            if isinstance(item, _Abort):
                named = [s for s in self._scheduler if s.request.request_id == item.request_id]
                yield from self._end(named, item.reason)
            else:
                yield from self._admit(item)

    def _admit(self, arrival: _Arrival) -> Iterator[Output]:
        """Queue a new sequence, or end it where it can or need not run."""
        request = arrival.request
        try:
            self._validate(request)
            self._refuse_duplicate(request)
            self._num_arrived += 1
            sequence = LiveSequence(
                self._num_arrived, request, self._table, self._loaded.eos_ids, arrival.arrived_s
            )
        except RequestError as error:
            yield _refusal(arrival, error, self._clock())
            return
        if sequence.transcript.finish_reason is not None:
            yield sequence.end(sequence.transcript.finish_reason, self._clock())
        else:
            self._scheduler.add(sequence)

    def _place(self, sequence: LiveSequence) -> int:
        return self._runner.place(sequence.key, sequence.token_ids)

    def _validate(self, request: Request) -> None:
        validate(
            request,
            vocab_size=self._loaded.vocab_size,
            context_length=self._loaded.context_length,
        )

    def _refuse_duplicate(self, request: Request) -> None:
        name = (request.request_id, request.choice)
        if any((s.request.request_id, s.request.choice) == name for s in self._scheduler):
            raise RequestError(
                "duplicate_request",
                "request_id and choice must be new or ended, "
                f"got {request.request_id!r} and {request.choice}, which are running",
            )

    def _end_overdue(self) -> Iterator[Output]:
        yield from self._end(self._scheduler.overdue(self._clock()), FinishReason.TIMEOUT)

    def _end(self, sequences: list[LiveSequence], reason: FinishReason) -> Iterator[Output]:
        self._release(sequences)
        for sequence in sequences:
            yield sequence.end(reason, self._clock())

    def _release(self, sequences: list[LiveSequence]) -> None:
        for sequence in sequences:
            self._scheduler.remove(sequence)
        self._runner.free({sequence.key for sequence in sequences})

    def _run(self, plan: _Plan) -> list[Output]:
        """Run the plan, sample where a sequence has caught up, and end what has ended."""
        outputs, ready, rows = [], [], []
        for (sequence, num_tokens), logits_V in zip(plan, self._forward(plan), strict=True):
            if logits_V is None:
                error = "the model's forward pass failed for this sequence"
                outputs.append(self._fail(sequence, "engine_error", error))
                continue
            sequence.num_cached += num_tokens
            sequence.batch_size = max(sequence.batch_size, len(plan))
            if not sequence.num_pending:
                ready.append(sequence)
                rows.append(logits_V)
        if ready:
            outputs += self._accept(ready, torch.stack(rows))
        ended = {(o.request_id, o.choice) for o in outputs if o.finish_reason}
        self._release([s for s, _ in plan if (s.request.request_id, s.request.choice) in ended])
        return outputs

    def _forward(self, plan: _Plan) -> list[Tensor | None]:
        """Return a row of logits per sequence, None for those that fail even alone.

        Raises:
            DeviceLostError: Nothing runs any more, whatever it is.
        """
        chunks = [Chunk(s.key, s.next_ids(n), s.num_cached) for s, n in plan]
        try:
            rows: list[Tensor | None] = list(self._runner.run(chunks))
        except torch.AcceleratorError as error:
            raise _lost(error) from error
        except Exception:
            logger.exception("a forward pass of %d sequences failed", len(chunks))
            rows = [None]
            if len(chunks) > 1:
                rows = [row for chunk in chunks for row in self._forward_alone(chunk)]
        self._note_failures(rows)
        return rows

    def _note_failures(self, rows: Sequence[Tensor | None]) -> None:
        """Tell a bad request from a device on which every request fails."""
        if any(row is not None for row in rows):
            self._num_failed_in_a_row = 0
            return
        self._num_failed_in_a_row += len(rows)
        if self._num_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            raise DeviceLostError(f"{self._num_failed_in_a_row} sequences in a row failed alone")

    def _forward_alone(self, chunk: Chunk) -> list[Tensor | None]:
        try:
            return list(self._runner.run([chunk]))
        except torch.AcceleratorError as error:
            raise _lost(error) from error
        except Exception:
            logger.exception("sequence %d fails alone", chunk.key)
            return [None]

    @torch.inference_mode()
    def _accept(self, sequences: list[LiveSequence], logits_BV: Tensor) -> list[Output]:
        """Sample the next token of each sequence; those with broken logits end."""
        is_finite = logits_BV.isfinite().all(dim=-1).tolist()
        good = [s for s, finite in zip(sequences, is_finite, strict=True) if finite]
        bad = [s for s, finite in zip(sequences, is_finite, strict=True) if not finite]
        error = "the model's logits must be finite, got NaN or infinity"
        outputs = [self._fail(sequence, "non_finite_logits", error) for sequence in bad]
        if good:
            token_ids = sample(logits_BV[is_finite], [s.sampling_row() for s in good])
            now = self._clock()
            outputs += [s.accept(i, now) for s, i in zip(good, token_ids, strict=True)]
        return outputs

    def _fail(self, sequence: LiveSequence, code: str, error: str) -> Output:
        return sequence.end(FinishReason.ERROR, self._clock(), code, error)


def _lost(error: torch.AcceleratorError) -> DeviceLostError:
    """A device that has reported an error takes no more work from this process, whoever asks."""
    return DeviceLostError(str(error).partition("\n")[0])


def _refusal(arrival: _Arrival, error: RequestError, now: float) -> Output:
    """Return the only output of a request that never became a sequence."""
    request, waited_s = arrival.request, now - arrival.arrived_s
    return Output(
        request_id=request.request_id,
        choice=request.choice,
        position=len(request.committed_ids),
        token_ids=(),
        texts=(),
        finish_reason=FinishReason.ERROR,
        error_code=error.code,
        error=str(error),
        timings=Timings(waited_s, 0.0, 0.0, request.used_s, None, 0),
        used_s=request.used_s,
    )
