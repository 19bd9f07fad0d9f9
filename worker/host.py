"""Loads the model, runs the backend on the engine's thread, and passes jobs in.

Knows nothing about Celery. What the backend raises ends the thread, and with it the process
(`worker.main`): the engine isolates what one request does to it, so it is a bug or a dead device.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from common.errors import ModelLoadError, RedisUnavailableError
from common.fleet import FleetWriter
from common.model_card import ModelCard
from common.prompt import PromptEncoder
from worker.backends.base import Backend, BackendJob
from worker.held_choice import HeldChoice
from worker.held_jobs import HeldJob, HeldJobs
from worker.publisher import Publisher

FIRST_RETRY_S = 5.0
MOST_PASSING_FAILURES = 3
MAX_RETRY_S = 60.0
REDIS_RETRY_S = 0.5

log = logging.getLogger(__name__)


class EngineHost:
    """Owns the engine's thread of one model.

    Attributes:
        encoder: Encodes prompts with the loaded model's own card; None until it is loaded.
        load_error: Why the model cannot be loaded; None while it is loading or loaded.
    """

    def __init__(self, backend: Backend, held: HeldJobs) -> None:
        self._backend = backend
        self._held = held
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.encoder: PromptEncoder | None = None
        self.load_error: ModelLoadError | None = None

    def load(self, fleet: FleetWriter, on_error: Callable[[], None]) -> None:
        """Load the model and publish its card; a failure is told and tried again, ever later.

        Args:
            fleet: Where the card goes.
            on_error: Called at each failure, so that it is announced at once.
        """
        retry_s, num_failures = FIRST_RETRY_S, 0
        while True:
            try:
                card, tokenizer_json = self._backend.load(log.info)
                encoder = _encoder_of(card, tokenizer_json)
                break
            except ModelLoadError as error:
                num_failures += 1
                if num_failures >= MOST_PASSING_FAILURES or not error.may_pass:
                    self.load_error = error  # jobs are failed for it
                    on_error()
                log.error("%s; next attempt in %.0f s", error.message, retry_s)
                if self._stop.wait(retry_s):
                    return
                retry_s = min(2 * retry_s, MAX_RETRY_S)
        while True:
            try:
                fleet.publish_card(card, tokenizer_json)
                break
            except RedisUnavailableError:
                if self._stop.wait(REDIS_RETRY_S):
                    return
        self.load_error = None
        self.encoder = encoder

    def start(self, publisher: Publisher) -> None:
        """Begin to generate."""
        self._thread = threading.Thread(
            target=self._backend.run,
            args=(publisher.deliver, self._stop),
            name="engine",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Generate no more; jobs that run are left as they are."""
        self._stop.set()
        if self._thread is not None:
            self._backend.wake()
            self._thread.join()

    def can_continue(self, job: HeldJob) -> bool:
        """Whether the tokens that an earlier attempt committed give here the text they gave there.

        They do not where the tokenizer or the stop rules differ; then they must not be continued.
        """
        return all(
            self._backend.text_of_committed(_backend_job(job, choice)) == choice.committed_text
            for choice in job.choices
            if choice.committed_ids
        )

    def submit(self, job: HeldJob) -> None:
        """Run a job that is not held yet; its output goes to the publisher."""
        self._held.add(job)
        for choice in job.choices:
            self._backend.submit(_backend_job(job, choice))
        if self._held.get(job.run_id) is not job:  # lost before the backend knew of it
            self.abort(job)

    def abort(self, job: HeldJob) -> None:
        """Run a job no longer."""
        self._backend.abort(job.run_id)


def _backend_job(job: HeldJob, choice: HeldChoice) -> BackendJob:
    record = job.claim.record
    return BackendJob(
        run_id=job.run_id,
        prompt_ids=job.prompt_ids,
        sampling=record.sampling.with_max_tokens(job.max_tokens),
        job_class=record.job_class,
        committed_ids=choice.committed_ids,
        used_s=record.used_ms / 1000,
        choice=choice.index,
    )


def _encoder_of(card: ModelCard, tokenizer_json: str) -> PromptEncoder:
    """The encoder that gateways will build from the card: one that fails is not published."""
    try:
        return PromptEncoder(card, tokenizer_json)
    except Exception as error:
        # Template and tokenizer come with the model; what they raise has no common class.
        raise ModelLoadError(
            f"Model loading failed: its chat template or tokenizer cannot be used: {error}"
        ) from error
