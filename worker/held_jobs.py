"""The jobs that this worker holds, each with all of its output until Redis has it.

A job's output is guarded by the publisher's lock: the engine's thread adds to it and the
publisher's sends it. Who is held is guarded here. Knows nothing about Redis or backends.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Literal

from common.events import TokenEvent
from common.job_store import Claim, Holding
from common.schemas import (
    JOB_CLASSES,
    CountedBy,
    EngineTimings,
    JobClass,
    JobStatus,
    Outcome,
    Prompt,
)
from common.token_logprobs import TokenLogprobs
from worker.backends.base import BackendEnd, Delta
from worker.held_choice import HeldChoice

Fate = Literal["ended", "lost", "released"]


class HeldJob:
    """A claimed job. Its output begins with what earlier attempts had committed.

    Args:
        claim: What Redis gave.
        prompt_ids: The prompt's token ids.
        committed: The token events of earlier attempts, in order, of all choices.
        max_tokens: Tokens to generate for each choice, those of earlier attempts counted.
        inputs: Token ids of each input of an embedding job; it has no prompt, and one choice, of
            no tokens.
        prompt: As the client sent it, where it has no ids: another server reads it.

    Attributes:
        choices: The output of each, in order.
        done: Set when the job has left this worker; then `fate` says how.
        outcome: How the job ended; None until every choice has.
        used_ms: Execution time: of choices that run side by side it is the longest, not the sum.
        epoch: How often what was committed has been voided by who held the job.
        is_void: Redis still has output of an earlier epoch.
    """

    def __init__(
        self,
        claim: Claim,
        prompt_ids: tuple[int, ...],
        committed: list[TokenEvent],
        max_tokens: int,
        inputs: tuple[tuple[int, ...], ...] = (),
        prompt: Prompt | None = None,
    ) -> None:
        self.claim = claim
        self.inputs = inputs
        self.prompt = prompt
        self.epoch = claim.record.epoch
        self.is_void = False
        self.prompt_ids = prompt_ids
        self.max_tokens = max_tokens
        self.done = threading.Event()
        self.fate: Fate | None = None
        self.outcome: Outcome | None = None
        self.used_ms = claim.record.used_ms
        self.choices = [
            HeldChoice(index, [event for event in committed if event.choice == index])
            for index in range(claim.record.sampling.n)
        ]
        # The first choice that has not come to its own end: it decides how the job ends.
        self._breach: BackendEnd | None = None
        self._prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self._pace_since: tuple[float, int] | None = None  # of the first output here: when, tokens

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.claim.record.job_id

    @property
    def run_id(self) -> str:
        """Names this claim of the job: the nonce."""
        return self.claim.nonce

    @property
    def num_committed(self) -> int:
        """Tokens that Redis has, of all choices together."""
        return sum(choice.num_committed for choice in self.choices)

    @property
    def unsent(self) -> list[TokenEvent]:
        """The tokens that Redis does not have yet, one event for each choice that has any."""
        return [choice.unsent for choice in self.choices if choice.has_unsent]

    @property
    def is_doomed(self) -> bool:
        """Whether a choice has failed, run out of time or been cancelled, and others still run."""
        return self._breach is not None and self.outcome is None

    def remaining_s(self, now: float) -> float:
        """Seconds until its end at its pace so far, at most; infinite where there is no pace yet.

        Args:
            now: Of `time.monotonic`, in seconds.
        """
        if self.outcome is not None:
            return 0.0
        began, num_before = self._pace_since or (now, 0)
        num_since = self._num_tokens - num_before
        if self._pace_since is None or num_since < 1:
            return math.inf
        running = [choice for choice in self.choices if choice.end is None]
        num_left = sum(self.max_tokens - choice.num_tokens for choice in running)
        return num_left * (now - began) / num_since

    def add(self, delta: Delta) -> None:
        """Take new output of the engine."""
        self.choices[delta.choice].add(delta)
        if delta.restarts:
            self._void()
        self.used_ms = max(self.used_ms, int(delta.used_s * 1000))
        self._prompt_logprobs = delta.prompt_logprobs or self._prompt_logprobs
        if self._pace_since is None:
            self._pace_since = time.monotonic(), self._num_tokens
        if delta.end is None:
            return
        if self._breach is None and delta.end.status is not JobStatus.COMPLETED:
            self._breach = delta.end
        ends = [choice.end for choice in self.choices if choice.end is not None]
        if len(ends) == len(self.choices):
            self.outcome = self._outcome(ends)

    def _void(self) -> None:
        """Have all output sent again: a job's stream begins again as a whole, or not at all."""
        self.epoch += 1
        self.is_void = True
        self.used_ms = 0
        self._pace_since = None
        for choice in self.choices:
            choice.mark_committed(0)

    def close(self, fate: Fate) -> None:
        """Let go of the job and wake the task that waits for it."""
        self.fate = fate
        self.done.set()

    @property
    def _num_tokens(self) -> int:
        return sum(choice.num_tokens for choice in self.choices)

    def _outcome(self, ends: list[BackendEnd]) -> Outcome:
        decisive = self._breach or ends[0]
        if self.inputs:
            return self._outcome_of_inputs(decisive)
        has_output = self._num_tokens > 0 or decisive.error_type is None
        results = [
            # Those that were called off ended for the same reason as the one that did it.
            choice.result(
                (end if end.status is not JobStatus.CANCELLED else decisive).finish_reason
            )
            for choice, end in zip(self.choices, ends, strict=True)
        ]
        counted_by, num_prompt, num_completion = self._count(ends)
        return Outcome(
            status=decisive.status,
            choices=tuple(results) if has_output else (),
            tails=tuple(end.tail for end in ends),
            prompt_tokens=num_prompt,
            timings=_timings(ends),
            error_type=decisive.error_type,
            error_message=decisive.error_message,
            prompt_logprobs=self._whole_prompt_logprobs(),
            completion_tokens=num_completion,
            counted_by=counted_by,
        )

    def _count(self, ends: list[BackendEnd]) -> tuple[CountedBy | None, int, int | None]:
        """Who counted, tokens of the prompt, and those generated where ids do not tell them."""
        if self.prompt is None:
            return None, len(self.prompt_ids), None
        told = [end.usage for end in ends if end.usage is not None]
        num_prompt = max((usage.prompt_tokens for usage in told), default=0)
        if len(told) < len(ends):  # one that broke off has not told: its pieces stand for all
            return "pieces", num_prompt, None
        return "upstream", num_prompt, sum(usage.completion_tokens for usage in told)

    def _outcome_of_inputs(self, end: BackendEnd) -> Outcome:
        return Outcome(
            status=end.status,
            prompt_tokens=sum(map(len, self.inputs)),
            timings=end.timings,
            error_type=end.error_type,
            error_message=end.error_message,
            embeddings=end.embeddings,
        )

    def _whole_prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        """With one for the first token too, of which there is nothing to tell."""
        is_told = len(self._prompt_logprobs) == len(self.prompt_ids) - 1
        if self.claim.record.sampling.prompt_logprobs is None or not is_told:
            return ()
        return (None, *self._prompt_logprobs)


class HeldJobs:
    """All of them, by the claim's run id. Thread-safe.

    A job can be here twice for a moment: once by a claim that was lost without this worker knowing
    it yet, and once by a new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, HeldJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: HeldJob) -> None:
        """Hold a job from now on."""
        with self._lock:
            self._jobs[job.run_id] = job

    def get(self, run_id: str) -> HeldJob | None:
        """A held job, or None."""
        with self._lock:
            return self._jobs.get(run_id)

    def claims_of(self, job_id: str) -> list[HeldJob]:
        """Every claim of a job that is held."""
        return [job for job in self.all() if job.job_id == job_id]

    def all(self) -> list[HeldJob]:
        """Every held job."""
        with self._lock:
            return list(self._jobs.values())

    def first_classes(self) -> dict[str, JobClass]:
        """The highest class that is held of each model."""
        classes: dict[str, JobClass] = {}
        for record in (job.claim.record for job in self.all()):
            before = classes.setdefault(record.model, record.job_class)
            classes[record.model] = min(before, record.job_class, key=JOB_CLASSES.index)
        return classes

    def holdings(self) -> list[Holding]:
        """What a heartbeat reports."""
        return [Holding(job.job_id, job.claim.nonce, job.used_ms) for job in self.all()]

    def drop(self, job: HeldJob, fate: Fate) -> None:
        """Hold the job no longer, and wake its task. A second time it does nothing."""
        with self._lock:
            if self._jobs.get(job.run_id) is not job:
                return
            del self._jobs[job.run_id]
        job.close(fate)


def _timings(ends: list[BackendEnd]) -> EngineTimings:
    """Of choices that run side by side the longest count, and what was cached before all."""
    every = [end.timings for end in ends]
    return EngineTimings(
        prefill_s=max(timings.prefill_s for timings in every),
        decode_s=max(timings.decode_s for timings in every),
        batch_size=max(timings.batch_size for timings in every),
        cached_tokens=min(timings.cached_tokens for timings in every),
    )
