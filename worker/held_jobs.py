"""The jobs that this worker holds, each with all of its output until Redis has it.

A job's output is guarded by the publisher's lock: the engine's thread adds to it and the
publisher's sends it. Who is held is guarded here. Knows nothing about Redis or backends.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Literal

from common.job_store import Claim, Holding
from common.schemas import ChoiceResult, Outcome, TokenEvent
from worker.backends.base import BackendEnd, Delta

Fate = Literal["ended", "lost", "released"]


class HeldJob:
    """A claimed job. Its output begins with what earlier attempts had committed.

    Args:
        claim: What Redis gave.
        prompt_ids: The prompt's token ids.
        committed: The token events of earlier attempts, in order.
        max_tokens: Tokens to generate, those of earlier attempts counted.

    Attributes:
        done: Set when the job has left this worker; then `fate` says how.
    """

    def __init__(
        self,
        claim: Claim,
        prompt_ids: tuple[int, ...],
        committed: list[TokenEvent],
        max_tokens: int,
    ) -> None:
        self.claim = claim
        self.prompt_ids = prompt_ids
        self.max_tokens = max_tokens
        self.done = threading.Event()
        self.fate: Fate | None = None
        self.outcome: Outcome | None = None
        self.used_ms = claim.record.used_ms
        self._token_ids = [token for event in committed for token in event.token_ids]
        self._texts = [text for event in committed for text in event.texts]
        # As many as tokens, or none.
        self._logprobs = [each for event in committed for each in event.logprobs]
        self._num_committed = len(self._token_ids)
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
    def committed_ids(self) -> tuple[int, ...]:
        """Tokens that Redis has."""
        return tuple(self._token_ids[: self._num_committed])

    @property
    def committed_text(self) -> str:
        """The text of the tokens that Redis has."""
        return "".join(self._texts[: self._num_committed])

    def remaining_s(self, now: float) -> float:
        """Seconds until its end at its pace so far, at most; infinite where there is no pace yet.

        Args:
            now: Of `time.monotonic`, in seconds.
        """
        if self.outcome is not None:
            return 0.0
        began, num_before = self._pace_since or (now, 0)
        num_since = len(self._token_ids) - num_before
        if self._pace_since is None or num_since < 1:
            return math.inf
        return (self.max_tokens - len(self._token_ids)) * (now - began) / num_since

    @property
    def has_sent_tokens(self) -> bool:
        """Whether any token is in Redis: the first one is in a hurry."""
        return self._num_committed > 0

    @property
    def unsent(self) -> TokenEvent | None:
        """The tokens that Redis does not have yet, as one event."""
        start = self._num_committed
        if start == len(self._token_ids):
            return None
        return TokenEvent(
            start,
            tuple(self._token_ids[start:]),
            tuple(self._texts[start:]),
            logprobs=tuple(self._logprobs[start:]),
        )

    def add(self, delta: Delta) -> None:
        """Take new output of the engine."""
        assert delta.position == len(self._token_ids), "the engine skipped or repeated a token"
        self._token_ids += delta.token_ids
        self._texts += delta.texts
        self._logprobs += delta.logprobs
        self.used_ms = int(delta.used_s * 1000)
        if self._pace_since is None:
            self._pace_since = time.monotonic(), len(self._token_ids)
        if delta.end is not None:
            self.outcome = self._outcome(delta.end)

    def mark_committed(self, count: int) -> None:
        """Note how many tokens Redis has."""
        self._num_committed = min(count, len(self._token_ids))

    def close(self, fate: Fate) -> None:
        """Let go of the job and wake the task that waits for it."""
        self.fate = fate
        self.done.set()

    def _outcome(self, end: BackendEnd) -> Outcome:
        text = "".join(self._texts) + end.tail
        has_output = bool(self._token_ids) or end.error_type is None
        choice = ChoiceResult(
            text, tuple(self._token_ids), end.finish_reason, tuple(self._logprobs)
        )
        return Outcome(
            status=end.status,
            choices=(choice,) if has_output else (),
            tails=(end.tail,),
            prompt_tokens=len(self.prompt_ids),
            timings=end.timings,
            error_type=end.error_type,
            error_message=end.error_message,
        )


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
