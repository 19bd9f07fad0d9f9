"""One permit, one job: claim it, hand it to the engine, wait for its end.

The thread of a task sleeps while its job runs: it is woken at the end only, never per token.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from common.embeddings import encode_inputs
from common.errors import (
    BatonError,
    EngineError,
    InvalidRequestError,
    RedisUnavailableError,
    RequestError,
)
from common.event_stream import EventWriter
from common.events import TokenEvent
from common.job_store import Claim, Claims, FencedError
from common.log import log_context
from common.model_card import ModelCard
from common.prompt import PromptEncoder, fit
from common.request_log import OnEnd, outcome_of
from common.schemas import JobRecord, JobStatus, Outcome, Prompt
from common.scorers import ScoringTask, prompt_ids
from worker.held_jobs import HeldJob, HeldJobs
from worker.host import EngineHost
from worker.registry import ModelRegistry

REDIS_RETRY_S = 0.5

log = logging.getLogger(__name__)

T = TypeVar("T")


class Draining(Exception):
    """This worker takes no more jobs; the permit belongs to another one."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What a job asks of the backend: to go on after a prompt, or to embed inputs.

    Attributes:
        prompt: Where another server reads it.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    inputs: tuple[tuple[int, ...], ...] = ()
    prompt: Prompt | None = None

    def hold(self, claim: Claim, committed: list[TokenEvent]) -> HeldJob:
        return HeldJob(claim, self.prompt_ids, committed, self.max_tokens, self.inputs, self.prompt)


class JobRunner:
    """Runs jobs for the tasks of one worker. Thread-safe.

    Args:
        on_end: Called for each job that is ended here, without the engine.
    """

    def __init__(
        self,
        models: ModelRegistry,
        held: HeldJobs,
        claims: Claims,
        events: EventWriter,
        on_end: OnEnd,
        *,
        default_max_tokens: int,
    ) -> None:
        self._models = models
        self._held = held
        self._claims = claims
        self._events = events
        self._on_end = on_end
        self._default_max_tokens = default_max_tokens
        self._draining = threading.Event()

    def run_next(self, model: str) -> None:
        """Spend a permit: run the model's next job, and more while the broker has no permit left.

        Raises:
            Draining: The worker is leaving.
            ModelBusy: The model is not loaded, or has no room.
        """
        with self._models.use(model) as host:
            while True:
                if self._draining.is_set():
                    raise Draining
                claim = self._claim(model, host)
                if claim is None:
                    return
                with log_context(task_id=claim.record.job_id, request_id=claim.record.request_id):
                    self._run_or_hand_back(claim, host)
                if not self._goes_on(model):
                    return

    def _goes_on(self, model: str) -> bool:
        """Whether this task claims again, rather than that Celery brings the next permit."""
        if not self._models.takes_jobs(model):
            return False
        if self._models.is_crowded(model):
            return True
        return self._patiently(lambda: self._claims.num_permits(model)) == 0

    def drain(self, patience_s: float = 0.0) -> None:
        """Take no more jobs and hand back those that run: they go on elsewhere, where they are.

        Args:
            patience_s: Jobs that will end within these seconds are let be until then.
        """
        self._draining.set()
        if len(self._held):
            log.info("Leaving; jobs that go on elsewhere or end soon: %d", len(self._held))
        now = time.monotonic()
        staying = []
        for job in self._held.all():
            if job.remaining_s(now) < patience_s:
                staying.append(job)
            else:
                self._hand_back(job)
        for job in staying:
            if not job.done.wait(max(0.0, now + patience_s - time.monotonic())):
                self._hand_back(job)

    def give_way(self, model: str) -> None:
        """Hand back what a model runs of the classes that it yields; it goes on later.

        Where Redis is away a job runs on: its lease would count the attempt as a crash.
        """
        for job in self._held.all():
            if job.claim.record.model == model:
                self._give_way(job)

    def _give_way(self, job: HeldJob) -> None:
        record = job.claim.record
        if job.outcome is None and self._models.yields(record.model, record.job_class):
            with suppress(RedisUnavailableError):
                self._release(job)

    def _hand_back(self, job: HeldJob) -> None:
        try:
            self._release(job)
        except RedisUnavailableError:
            log.warning("Could not hand back a job; its lease will", extra={"task_id": job.job_id})
            self._let_go(job)

    def _release(self, job: HeldJob) -> None:
        if self._claims.release(job.job_id, job.claim.nonce) == "ended":
            self._tell_end(job.job_id)
        self._let_go(job)

    def _let_go(self, job: HeldJob) -> None:
        self._held.drop(job, "released")
        self._models.abort(job.run_id)

    def _tell_end(self, job_id: str) -> None:
        record = self._claims.find(job_id)
        if record is not None:
            self._on_end(record, outcome_of(record))

    def _claim(self, model: str, host: EngineHost) -> Claim | None:
        nonce = uuid.uuid4().hex  # kept over repeats: they get the answer that was lost
        served = {model: _card_of(host).fingerprint}
        return self._patiently(lambda: self._claims.claim(served, nonce))

    def _run_or_hand_back(self, claim: Claim, host: EngineHost) -> None:
        try:
            self._run(claim, host)
        except Draining:
            # Before the job was held, so `drain` did not see it.
            with suppress(RedisUnavailableError):
                self._claims.release(claim.record.job_id, claim.nonce)
            raise

    def _run(self, claim: Claim, host: EngineHost) -> None:
        record = claim.record
        try:
            work = self._prepare(record, _card_of(host), host.encoder)
        except InvalidRequestError as error:
            self._refuse(claim, error)
            return
        except Exception:
            # A chat template is the model's own code and may raise anything.
            log.exception("The prompt could not be prepared")
            self._refuse(claim, EngineError("The prompt could not be prepared."))
            return
        committed: list[TokenEvent] = []
        if record.last_eid > 0:
            committed = self._patiently(lambda: self._events.committed(record.job_id))
            log.info("Resuming after %d events, attempt %d", len(committed), record.attempts)
        if work.inputs:  # nothing of an earlier attempt is left, so its time does not count
            claim = replace(claim, record=replace(record, used_ms=0))
        job = work.hold(claim, committed)
        if job.num_committed != record.completion_tokens or not host.can_continue(job):
            log.warning("What was generated cannot be continued here; starting from nothing")
            try:
                self._patiently(lambda: self._claims.restart(record.job_id, claim.nonce))
            except FencedError:
                return
            fresh = replace(claim, record=replace(record, completion_tokens=0, used_ms=0))
            job = work.hold(fresh, [])
        host.submit(job)
        if self._draining.is_set():
            # `drain` may have looked before this job was held; one of the two sees it.
            self._hand_back(job)
        self._give_way(job)  # likewise
        job.done.wait()

    def _prepare(self, record: JobRecord, card: ModelCard, encoder: PromptEncoder | None) -> _Work:
        """What there is to do.

        Raises:
            InvalidRequestError: The prompt or an input, which no gateway could check, cannot be
                run; or the model has been made one of another kind since.
        """
        if record.scoring is not None and encoder is not None:
            return _Work((), 0, _prompts_to_score(record, record.scoring, encoder))
        if (record.inputs is None) != (card.kind == "generate"):
            raise InvalidRequestError(
                f"Model '{record.model}' is of kind {card.kind} now: it cannot run this.",
                param="model",
            )
        if encoder is None:
            return self._prepare_for_server(record)
        if record.inputs is not None:
            return _Work((), 0, encode_inputs(encoder.card, encoder.tokenizer, record.inputs))
        prompt_ids = record.prompt_ids
        if prompt_ids is None:
            prompt_ids = encoder.encode(record.prompt or Prompt(text=""))
        sampling = record.sampling
        sampling.check_size(len(prompt_ids))
        default, least = self._default_max_tokens, sampling.min_tokens
        most = fit(encoder.card, len(prompt_ids), sampling.max_tokens, default, least)
        return _Work(prompt_ids, most)

    def _prepare_for_server(self, record: JobRecord) -> _Work:
        if record.prompt is None:
            raise InvalidRequestError(
                f"Another server runs '{record.model}' now; this job's prompt was made of tokens "
                "for the model that had the name before. Send it again.",
                param="model",
            )
        sampling, default = record.sampling, self._default_max_tokens
        most = sampling.max_tokens
        return _Work(
            (), max(default, sampling.min_tokens) if most is None else most, prompt=record.prompt
        )

    def _refuse(self, claim: Claim, error: BatonError) -> None:
        outcome = Outcome(
            JobStatus.FAILED,
            error_type=type(error).__name__,
            error_message=error.message,
            error_param=error.param if isinstance(error, RequestError) else None,
        )
        job_id, nonce = claim.record.job_id, claim.nonce
        try:
            self._patiently(lambda: self._claims.finish(job_id, nonce, outcome, 0))
        except FencedError:
            return
        self._on_end(claim.record, outcome)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Repeat a call while Redis is away: every one is safe to repeat."""
        while True:
            try:
                return call()
            except RedisUnavailableError:
                if self._draining.wait(REDIS_RETRY_S):
                    raise Draining from None


def _card_of(host: EngineHost) -> ModelCard:
    assert host.card is not None, "the registry hands out hosts that are loaded"
    return host.card


def _prompts_to_score(
    record: JobRecord, task: ScoringTask, encoder: PromptEncoder
) -> tuple[tuple[int, ...], ...]:
    length = encoder.card.context_length
    assert length is not None, "who encodes prompts knows how long they may be"
    prompts = [str(prompt) for prompt in record.inputs or ()]
    return prompt_ids(encoder.tokenizer, prompts, min(length, task.context_length or length))
