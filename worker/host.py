"""Loads one model, runs its backend on the engine's thread, and passes jobs in.

Knows nothing about Celery. What the backend raises ends the thread, and with it the process
(`worker.main`): the engine isolates what one request does to it, so it is a bug or a dead device.
"""

from __future__ import annotations

import logging
import threading

from common.errors import ModelLoadError, RedisUnavailableError
from common.fleet import FleetWriter
from common.model_card import ModelCard
from common.prompt import PromptEncoder
from worker.backends.base import LOADING, Backend, BackendJob
from worker.held_choice import HeldChoice
from worker.held_jobs import HeldJob, HeldJobs
from worker.publisher import Publisher

REDIS_RETRY_S = 0.5

log = logging.getLogger(__name__)


class EngineHost:
    """Owns the engine's thread of one model, from its load until it is unloaded.

    Attributes:
        backend: What runs the model.
        card: Of the loaded model; None until it is loaded.
        encoder: Encodes prompts with this card; None where the backend takes them as they came.
    """

    def __init__(self, backend: Backend, held: HeldJobs) -> None:
        self.backend = backend
        self._held = held
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._unpublished: ModelCard | None = None
        self.card: ModelCard | None = None
        self.encoder: PromptEncoder | None = None

    def load(self, fleet: FleetWriter, give_up: threading.Event) -> bool:
        """Load the model and publish its card; Redis is waited for.

        A card that is not known yet, for the servers behind the model are away, is left to
        `refresh`: what they told before stays until then.

        Args:
            fleet: Where the card goes.
            give_up: Ends the wait.

        Returns:
            Whether the model is ready to run.

        Raises:
            ModelLoadError: It cannot be loaded; the message says why in one line.
        """
        try:
            with LOADING:
                card, tokenizer_json = self.backend.load(log.info)
            encoder = None if tokenizer_json is None else _encoder_of(card, tokenizer_json)
        except ModelLoadError:
            self.backend.close()
            raise
        while not give_up.is_set():
            try:
                if self.backend.away is None:
                    fleet.publish_card(card, tokenizer_json)
            except RedisUnavailableError:
                give_up.wait(REDIS_RETRY_S)
            else:
                self.card, self.encoder = card, encoder
                return True
        return False

    def refresh(self, fleet: FleetWriter) -> None:
        """Publish the card where it has changed; while Redis is away, at a later call."""
        self._unpublished = self.backend.new_card() or self._unpublished
        if self._unpublished is None:
            return
        try:
            fleet.publish_card(self._unpublished, None)
        except RedisUnavailableError:
            return
        self.card, self._unpublished = self._unpublished, None

    def start(self, publisher: Publisher) -> None:
        """Begin to run jobs."""
        self._thread = threading.Thread(
            target=self.backend.run,
            args=(publisher.deliver, self._stop),
            name="engine",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Run no more; jobs that run are left as they are."""
        self._stop.set()
        if self._thread is not None:
            self.backend.wake()
            self._thread.join()

    def close(self) -> None:
        """Give the model's memory back, once it is stopped."""
        self.backend.close()

    def can_continue(self, job: HeldJob) -> bool:
        """Whether the tokens that an earlier attempt committed give here the text they gave there.

        They do not where the tokenizer or the stop rules differ; then they must not be continued.
        """
        return all(
            self.backend.text_of_committed(_backend_job(job, choice)) == choice.committed_text
            for choice in job.choices
            if choice.committed_ids
        )

    def submit(self, job: HeldJob) -> None:
        """Run a job that is not held yet; its output goes to the publisher."""
        self._held.add(job)
        for choice in job.choices:
            self.backend.submit(_backend_job(job, choice))
        if self._held.get(job.run_id) is not job:  # lost before the backend knew of it
            self.abort(job.run_id)

    def abort(self, run_id: str) -> None:
        """Run a job no longer; one that is unknown here is ignored."""
        self.backend.abort(run_id)


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
        inputs=job.inputs,
        prompt=job.prompt,
        committed_texts=choice.committed_texts,
        scoring=record.scoring,
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
