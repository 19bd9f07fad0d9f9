"""Run many sequences at once, one token a step: drain inbox, schedule, run, sample, postprocess.

One thread steps the engine; any thread may add and abort. Knows nothing about
jobs, queues or HTTP.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from worker.engine.detokenizer import TokenTable
from worker.engine.errors import DeviceLostError, RequestError
from worker.engine.grammars import COMPILE_LIMIT_S, Compiled, Grammars
from worker.engine.inbox import NOT_TAKEN_IN, Abort, Arrival
from worker.engine.live_sequence import LiveSequence
from worker.engine.loader import LoadedModel
from worker.engine.logprobs import sampled_logprobs
from worker.engine.runner import CacheStats, Chunk, Runner
from worker.engine.runner_choice import choose_runner
from worker.engine.sampler import finite_rows, sample
from worker.engine.scheduler import PREFILL_BUDGET_TOKENS, Scheduler
from worker.engine.sequence import FinishReason, Output, Request
from worker.engine.token_masks import RowMask
from worker.engine.transcript import Transcript
from worker.engine.validation import validate

logger = logging.getLogger(__name__)

MAX_FAILED_IN_A_ROW = 3
"""Sequences that fail alone, with none that succeeds between, before the device counts as lost."""

_NOT_FINITE = "the model's logits must be finite, got NaN or infinity"

_Plan = list[tuple[LiveSequence, int]]


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
        cache_bytes: int | None = None,
        prefill_budget_tokens: int = PREFILL_BUDGET_TOKENS,
    ) -> None:
        """Start with nothing to do.

        Args:
            loaded: The model, which only this engine's thread may run from now on.
            max_batch_size: Sequences that may run at once.
            clock: Seconds, never going back.
            runner: Runs the forward passes; by default what `choose_runner` finds best.
            cache_bytes: Memory of the keys and values at most, for `choose_runner`.
            prefill_budget_tokens: Prompt tokens a step at most, over all sequences.
        """
        self._loaded = loaded
        self._clock = clock
        self._runner = runner or choose_runner(loaded, max_batch_size, cache_bytes)
        self._scheduler = Scheduler(max_batch_size, self._runner, prefill_budget_tokens)
        self._table = TokenTable(loaded.tokenizer.backend_tokenizer)
        self._grammars = Grammars(loaded, max_batch_size, self._put)
        self._inbox: list[Arrival | Abort | Compiled] = []
        self._inbox_changed = threading.Condition()
        self._num_unfinished = 0
        self._num_arrived = 0
        self._num_failed_in_a_row = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        with self._inbox_changed:
            is_ready = bool(self._inbox) or self._num_unfinished > len(self._grammars)
            return is_ready or bool(self._grammars.overdue(self._clock()))

    @property
    def context_length(self) -> int:
        """Tokens of prompt and completion together at most."""
        return self._runner.max_sequence_tokens

    @property
    def num_running(self) -> int:
        """Sequences in the batch, those in prefill counted."""
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Sequences added but not admitted to the batch yet."""
        with self._inbox_changed:
            return max(0, self._num_unfinished - self._scheduler.num_running)

    @property
    def num_preempted(self) -> int:
        """How often a sequence gave way to others because the cache was full."""
        return self._scheduler.num_preempted

    @property
    def cache(self) -> CacheStats:
        """How full the cache is and what it has saved."""
        return self._runner.stats

    def add(self, request: Request) -> None:
        """Hand in a request; the next step sees it, and reports what is wrong with it."""
        with self._inbox_changed:
            self._inbox.append(Arrival(request, self._clock()))
            self._num_unfinished += 1
            self._inbox_changed.notify_all()

    def abort(self, request_id: str, reason: FinishReason) -> None:
        """End all choices of a request at the next step; an unknown id is no error."""
        self._put(Abort(request_id, reason))

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
        sequences = list(self._sequences)
        names = [(s.request.request_id, s.request.choice) for s in sequences]
        assert len(names) == len(set(names)), f"a request is scheduled twice: {names}"
        self._runner.check_integrity({s.key: s.num_cached for s in sequences if s.num_cached})
        with self._inbox_changed:
            num_added = sum(isinstance(item, Arrival) for item in self._inbox)
            assert self._num_unfinished == len(sequences) + num_added

    def _drain_inbox(self) -> Iterator[Output]:
        with self._inbox_changed:
            items, self._inbox = self._inbox, []
        for item in items:
            if isinstance(item, Abort):
                named = [s for s in self._sequences if s.request.request_id == item.request_id]
                yield from self._end(named, item.reason)
            elif isinstance(item, Compiled):
                yield from self._begin_grammar(item)
            else:
                yield from self._admit(item)

    def _admit(self, arrival: Arrival) -> Iterator[Output]:
        """Queue a new sequence, or end it where it can or need not run."""
        request = arrival.request
        try:
            self._validate(request)
            self._refuse_duplicate(request)
            self._num_arrived += 1
            sequence = LiveSequence(
                self._num_arrived, request, self._table, self._loaded.eos_ids, arrival.arrived_s
            )
            reason, most = sequence.transcript.finish_reason, request.params.max_tokens
            is_over = reason is FinishReason.STOP or not most
            if request.grammar is not None and not is_over:
                self._grammars.compile(sequence, self._clock())
                return
        except RequestError as error:
            yield arrival.refuse(error, self._clock())
            return
        except Exception:  # others have come beside it
            logger.exception("a request could not be taken in")
            yield arrival.refuse(NOT_TAKEN_IN, self._clock())
            return
        yield from self._queue(sequence)

    def _begin_grammar(self, compiled: Compiled) -> Iterator[Output]:
        """Queue a sequence whose grammar is ready, or end it where there is none."""
        sequence = self._grammars.take(compiled.key)
        if sequence is None:  # it has ended meanwhile
            return
        if isinstance(compiled.result, RequestError):
            yield self._fail(sequence, compiled.result.code, str(compiled.result))
        else:
            sequence.follow(compiled.result)
            yield from self._queue(sequence)

    def _queue(self, sequence: LiveSequence) -> Iterator[Output]:
        # Nothing more is generated, but of the prompt there may be something to tell.
        sequence.only_scores = sequence.transcript.finish_reason is not None
        if sequence.only_scores and not sequence.lacks_prompt_logprobs:
            assert sequence.transcript.finish_reason is not None
            yield sequence.end(sequence.transcript.finish_reason, self._clock())
        else:
            self._scheduler.add(sequence)

    @property
    def _sequences(self) -> Iterator[LiveSequence]:
        """All that have not ended, those that wait for their grammar last."""
        return chain(self._scheduler, self._grammars)

    def _put(self, item: Abort | Compiled) -> None:
        with self._inbox_changed:
            self._inbox.append(item)
            self._inbox_changed.notify_all()

    def _validate(self, request: Request) -> None:
        validate(
            request,
            vocab_size=self._loaded.vocab_size,
            context_length=self.context_length,
            eos_ids=self._loaded.eos_ids,
        )

    def _refuse_duplicate(self, request: Request) -> None:
        name = (request.request_id, request.choice)
        if any((s.request.request_id, s.request.choice) == name for s in self._sequences):
            raise RequestError(
                "duplicate_request",
                "request_id and choice must be new or ended, "
                f"got {request.request_id!r} and {request.choice}, which are running",
            )

    def _end_overdue(self) -> Iterator[Output]:
        now = self._clock()
        yield from self._end(self._scheduler.overdue(now), FinishReason.TIMEOUT)
        for sequence in self._grammars.overdue(now):
            self._grammars.take(sequence.key)
            error = f"the grammar must compile in {COMPILE_LIMIT_S:g} s"
            yield self._fail(sequence, "invalid_request", error)

    def _end(self, sequences: list[LiveSequence], reason: FinishReason) -> Iterator[Output]:
        self._scheduler.remove(self._grammars.remove(sequences))
        for sequence in sequences:
            yield sequence.end(reason, self._clock())

    def _run(self, plan: _Plan) -> list[Output]:
        """Run the plan, sample where a sequence has caught up, and end what has ended."""
        outputs, ready, last_rows = [], [], []
        draws = [s for s, num_tokens in plan if num_tokens == s.num_pending and not s.only_scores]
        self._grammars.begin_masks(draws)
        logits_NV, has_run = self._forward(plan)
        masks = self._grammars.take_masks()
        end = 0
        for (sequence, num_tokens), is_run in zip(plan, has_run, strict=True):
            if not is_run:
                error = "the model's forward pass failed for this sequence"
                outputs.append(self._fail(sequence, "engine_error", error))
                continue
            start, end = end, end + sequence.num_logits(num_tokens)
            if sequence.lacks_prompt_logprobs and not sequence.read_prompt(logits_NV[start:end]):
                outputs.append(self._fail(sequence, "non_finite_logits", _NOT_FINITE))
                continue
            sequence.num_cached += num_tokens
            sequence.batch_size = max(sequence.batch_size, len(plan))
            if sequence.num_pending:
                continue
            reason = sequence.transcript.finish_reason
            if reason is not None:
                outputs.append(sequence.end(reason, self._clock()))
            else:
                ready.append(sequence)
                last_rows.append(end - 1)
        if ready:
            # Where they are all there is, as in a step of decodes, they need not be copied.
            is_all = len(ready) == len(logits_NV)
            outputs += self._accept(ready, logits_NV if is_all else logits_NV[last_rows], masks)
        ended = {(o.request_id, o.choice) for o in outputs if o.finish_reason}
        self._scheduler.remove(
            [s for s, _ in plan if (s.request.request_id, s.request.choice) in ended]
        )
        return outputs

    def _forward(self, plan: _Plan) -> tuple[Tensor, list[bool]]:
        """Return the logits (N, V) that are wanted of those that run, and who does, even if alone.

        Raises:
            DeviceLostError: Nothing runs any more, whatever it is.
        """
        chunks = [Chunk(s.key, s.next_ids(n), s.num_cached, s.num_logits(n)) for s, n in plan]
        try:
            logits_NV = self._runner.run(chunks)
        except torch.AcceleratorError as error:
            raise _lost(error) from error
        except Exception:
            logger.exception("a forward pass of %d sequences failed", len(chunks))
            parts = [self._forward_alone(chunk) if len(chunks) > 1 else None for chunk in chunks]
            has_run = [part is not None for part in parts]
            logits_NV = torch.cat([part for part in parts if part is not None] or [torch.empty(0)])
        else:
            has_run = [True] * len(chunks)
        self._note_failures(has_run)
        return logits_NV, has_run

    def _note_failures(self, has_run: Sequence[bool]) -> None:
        """Tell a bad request from a device on which every request fails."""
        if any(has_run):
            self._num_failed_in_a_row = 0
            return
        self._num_failed_in_a_row += len(has_run)
        if self._num_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            raise DeviceLostError(f"{self._num_failed_in_a_row} sequences in a row failed alone")

    def _forward_alone(self, chunk: Chunk) -> Tensor | None:
        try:
            return self._runner.run([chunk])
        except torch.AcceleratorError as error:
            raise _lost(error) from error
        except Exception:
            logger.exception("sequence %d fails alone", chunk.key)
            return None

    @torch.inference_mode()
    def _accept(
        self, sequences: list[LiveSequence], logits_BV: Tensor, masks: Mapping[int, RowMask]
    ) -> list[Output]:
        """Sample the next token of each sequence; those with broken logits end."""
        outputs: list[Output] = []
        good, kept = [], []
        for row, (s, is_finite) in enumerate(zip(sequences, finite_rows(logits_BV), strict=True)):
            mask = masks.get(s.key)
            if not is_finite:
                outputs.append(self._fail(s, "non_finite_logits", _NOT_FINITE))
            elif mask is not None and not mask.is_open:
                outputs += self._end_grammar(s, mask)
            else:
                good.append(s)
                kept.append(row)
        if len(good) < len(sequences):
            logits_BV = logits_BV[kept]
        if good:
            allowed = {row: masks[s.key].allowed_V for row, s in enumerate(good) if s.key in masks}
            token_ids = sample(logits_BV, [s.sampling_row for s in good], allowed)
            # Of the model's own logits, before penalties: see `TokenLogprobs`.
            num_top = [s.request.params.logprobs for s in good]
            logprobs = sampled_logprobs(logits_BV, token_ids, num_top)
            now = self._clock()
            outputs += [
                s.accept(i, now, found)
                for s, i, found in zip(good, token_ids, logprobs, strict=True)
            ]
        return outputs

    def _end_grammar(self, sequence: LiveSequence, mask: RowMask) -> Iterator[Output]:
        """End a sequence that can draw no token, unless it may be another's fault."""
        assert sequence.matcher is not None
        if mask.ends:
            yield sequence.end(FinishReason.STOP, self._clock())
        elif sequence.matcher.is_shared:
            now = self._clock()
            self._scheduler.remove([sequence])
            sequence.preempt(now)
            self._grammars.compile(sequence, now, alone=True)
        else:
            error = f"the grammar must allow a next token, got: {mask.error}"
            yield self._fail(sequence, "grammar_stuck", error)

    def _fail(self, sequence: LiveSequence, code: str, error: str) -> Output:
        return sequence.end(FinishReason.ERROR, self._clock(), code, error)


def _lost(error: torch.AcceleratorError) -> DeviceLostError:
    """A device that has reported an error takes no more work from this process, whoever asks."""
    return DeviceLostError(str(error).partition("\n")[0])
