"""Puts the jobs of a request in their queue, once, and counts the request toward its key's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.fleet_poller import FleetPoller
from api.job_request import JobRequest, named
from api.job_specs import SpecMaker
from api.key_waits import KeyWaits
from api.schemas import MAX_GENERATIONS, MAX_PROMPTS
from common.errors import (
    InvalidRequestError,
    QueueFullError,
    RateLimitError,
    RedisUnavailableError,
    RequestError,
)
from common.job_store import Idempotency, Submissions, Submitted
from common.sampling import MAX_CHOICES, SamplingSpec
from common.schemas import JobSpec, JobStatus, group_of
from common.settings import Settings

MEMORY_SHARE = 0.8
"""Of the memory that Redis may use; above it nothing new is taken, so that what runs can finish."""
MEMORY_RETRY_S = 5.0

_PERHAPS_ACCEPTED = (
    "The queue does not answer. The task may have been accepted all the same, so that a repeat "
    "would run it twice; requests with an Idempotency-Key can be repeated safely."
)
_PERHAPS_ACCEPTED_WITH_KEY = (
    "The queue does not answer. Repeat the request with the same Idempotency-Key: it runs once."
)


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job that was accepted.

    Attributes:
        stream_token: Opens the job's stream without a key.
    """

    job_id: str
    stream_token: str
    status: JobStatus


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was accepted: just now, or by the submission that this one repeats.

    Attributes:
        group_id: Of one job alone: its id.
        jobs: In the order of the prompts.
        model: The id of their model; None where they were accepted before.
    """

    group_id: str
    jobs: tuple[AcceptedJob, ...]
    answer: Submitted
    model: str | None = None

    @property
    def is_replay(self) -> bool:
        """Whether an earlier submission is answered once more."""
        return self.answer.replayed is not None


class Submitter:
    """Submits requests, each once."""

    def __init__(
        self,
        settings: Settings,
        jobs: Submissions,
        poller: FleetPoller,
        maker: SpecMaker,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._poller = poller
        self._maker = maker
        self._waits = KeyWaits()

    async def submit(
        self,
        request: JobRequest,
        key_id: str,
        request_id: str,
        idempotency: Idempotency | None = None,
    ) -> Accepted:
        """Check a request against its model, encode its prompts, and put the jobs in line.

        Where the idempotency key is that of an earlier submission, there are no new jobs: the
        answer is that one's. A request that is refused after its prompts or its grammar were
        tried counts toward the key's rate; one that is over it is refused before.

        Raises:
            IdempotencyMismatchError: The idempotency key came with another request.
            TaskExpiredError: The idempotency key's job was dropped `RESULT_TTL_S` after its end.
            InvalidRequestError: There are too many prompts, inputs, choices or log-probabilities,
                one of them is empty or does not fit, the time limit is too long, a token id is not
                the model's, the grammar cannot be compiled, or the model is of the wrong kind.
            ModelNotFoundError: The model is not configured, or there is no such scorer.
            ScorerUnavailableError: No worker can use the scorer.
            RateLimitError: The key is over its rate.
            QueueFullError: Too many jobs wait, or Redis's memory is nearly full.
            RedisUnavailableError: Redis is away.
        """
        if request.router is not None and idempotency is not None:
            # A repeat must not ask the router again.
            earlier = await self._jobs.replay(key_id, idempotency)
            if earlier is not None:
                return _replayed(earlier)
        has_worked = False
        try:
            if request.is_rated:
                self._waits.check(key_id)
            self._check(request)
            has_worked = request.router is not None
            target = await self._maker.target(request, key_id, request_id)
            has_worked = True
            specs = await self._maker.specs(request, target, key_id, request_id)
        except RequestError as error:
            is_counted = has_worked and request.is_rated and isinstance(error, InvalidRequestError)
            # What has changed since a request was accepted is no reason to refuse its repeat.
            earlier = await self._earlier(key_id, idempotency, is_counted=is_counted)
            if earlier is None:
                raise named(error, request.params) from None
            return _replayed(earlier)
        answer = await self._submitted(specs, key_id, idempotency, is_rated=request.is_rated)
        if answer.replayed is not None:
            return _replayed(answer)
        jobs = tuple(AcceptedJob(s.job_id, s.stream_token, JobStatus.QUEUED) for s in specs)
        group_id = specs[0].job_id if len(specs) == 1 else group_of(specs[0].job_id)
        return Accepted(group_id, jobs, answer, target.model)

    async def _submitted(
        self,
        specs: Sequence[JobSpec],
        key_id: str,
        idempotency: Idempotency | None,
        *,
        is_rated: bool,
    ) -> Submitted:
        try:
            return await self._jobs.submit(*specs, idempotency=idempotency, is_rated=is_rated)
        except RateLimitError as error:
            self._waits.note(key_id, error)
            raise
        except RedisUnavailableError as error:
            # Redis may have run the script, and only the reply is missing.
            raise RedisUnavailableError(
                _PERHAPS_ACCEPTED if idempotency is None else _PERHAPS_ACCEPTED_WITH_KEY,
                retry_after_s=error.retry_after_s,
            ) from error

    async def _earlier(
        self, key_id: str, idempotency: Idempotency | None, *, is_counted: bool
    ) -> Submitted | None:
        """What a refused request repeats; where it repeats nothing, count it if that is due."""
        if idempotency is None and not is_counted:
            return None
        try:
            return await self._jobs.replay(key_id, idempotency, is_rated=is_counted)
        except RateLimitError as error:
            self._waits.note(key_id, error)
            raise
        except RedisUnavailableError:
            if idempotency is not None:
                raise
            return None  # nothing can be counted, and the request is as wrong as before

    async def replayed(self, key_id: str, idempotency: Idempotency) -> Accepted | None:
        """What an earlier submission with this idempotency key became; None: there was none.

        Raises:
            IdempotencyMismatchError: The idempotency key came with another request.
            TaskExpiredError: The idempotency key's job was dropped `RESULT_TTL_S` after its end.
            RedisUnavailableError: Redis is away.
        """
        earlier = await self._jobs.replay(key_id, idempotency)
        return None if earlier is None else _replayed(earlier)

    def _check(self, request: JobRequest) -> None:
        """What takes no work to check."""
        self._check_memory()
        self._check_time(request.sampling)
        if request.inputs is None:
            _check(request)

    def _check_memory(self) -> None:
        fleet = self._poller.fleet
        if fleet is None or fleet.memory_limit is None:
            return
        if fleet.memory_used > MEMORY_SHARE * fleet.memory_limit:
            raise QueueFullError(
                "The queue's memory is nearly full; nothing new is taken until jobs have ended.",
                retry_after_s=MEMORY_RETRY_S,
            )

    def _check_time(self, sampling: SamplingSpec) -> None:
        limit_s = self._settings.task_time_limit
        if sampling.time_limit_s > limit_s:
            raise InvalidRequestError(
                f"timeout must be at most TASK_TIME_LIMIT, {limit_s:g} seconds; "
                f"got {sampling.time_limit_s:g}.",
                param="timeout",
            )


def _check(request: JobRequest) -> None:
    """What can be said without the model, beyond what the route's schema has said."""
    sampling, num_prompts = request.sampling, len(request.prompts)
    if not 1 <= num_prompts <= MAX_PROMPTS:
        raise InvalidRequestError(
            f"prompt must hold 1 to {MAX_PROMPTS} prompts; got {num_prompts}.", param="prompt"
        )
    if not 1 <= sampling.n <= MAX_CHOICES:
        raise InvalidRequestError(f"n must be 1 to {MAX_CHOICES}; got {sampling.n}.", param="n")
    if num_prompts * sampling.n > MAX_GENERATIONS:
        raise InvalidRequestError(
            f"n and the number of prompts must make at most {MAX_GENERATIONS} answers together; "
            f"got {sampling.n} times {num_prompts}.",
            param="n",
        )
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequestError(
            f"min_tokens must be at most max_tokens; got {sampling.min_tokens} and "
            f"{sampling.max_tokens}.",
            param="min_tokens",
        )
    if sampling.max_tokens == 0 and sampling.prompt_logprobs is None:
        raise InvalidRequestError(
            "max_tokens must be at least 1; got 0, which goes only with log-probabilities of "
            "the prompt.",
            param="max_tokens",
        )


def _replayed(answer: Submitted) -> Accepted:
    earlier = answer.replayed
    assert earlier is not None
    jobs = tuple(AcceptedJob(job.job_id, job.stream_token, job.status) for job in earlier.jobs)
    return Accepted(earlier.group_id, jobs, answer)
