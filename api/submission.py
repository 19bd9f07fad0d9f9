"""From a checked request to its jobs in their queue."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from api.fleet_poller import FleetPoller
from api.grammar_checker import GrammarChecker
from api.job_request import AUTO, JobRequest, named
from api.key_waits import KeyWaits
from api.routing import Router
from api.schemas import MAX_GENERATIONS, MAX_PROMPTS, MAX_SEED
from api.scorers import Scorers
from api.tokenizers import Tokenizers
from common.embeddings import Input, check_count
from common.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    RateLimitError,
    RedisUnavailableError,
    RequestError,
)
from common.job_store import Idempotency, Submissions, Submitted
from common.model_card import ModelCard
from common.model_catalog import ModelCatalog
from common.parameters import check_parameters
from common.prompt import fit
from common.sampling import MAX_CHOICES, SamplingSpec
from common.schemas import JobSpec, JobStatus, Prompt, group_of, member_ids
from common.scorers import Routing, ScoringTask, check_candidates
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


@dataclass(frozen=True, slots=True)
class _Target:
    """The model that a request is for, and what it was picked by.

    Attributes:
        card: None where no worker has announced it.
    """

    model: str
    card: ModelCard | None
    scoring: ScoringTask | None
    routing: Routing | None


class Submitter:
    """Turns requests into jobs."""

    def __init__(
        self,
        settings: Settings,
        catalog: ModelCatalog,
        jobs: Submissions,
        poller: FleetPoller,
        tokenizers: Tokenizers,
        grammars: GrammarChecker,
        scorers: Scorers,
        router: Router,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._jobs = jobs
        self._poller = poller
        self._tokenizers = tokenizers
        self._grammars = grammars
        self._waits = KeyWaits()
        self._scorers = scorers
        self._router = router

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
            target = await self._target(request, key_id, request_id)
            has_worked = True
            specs = await self._specs(request, target, key_id, request_id)
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

    async def _target(self, request: JobRequest, key_id: str, request_id: str) -> _Target:
        scoring, routing = None, None
        if request.scoring is not None:
            model, scoring = await self._scored_by(request.scoring)
        elif request.router is not None:
            routing = await self._router.pick(request, request.router, key_id, request_id)
            model = routing.model
        else:
            model = self._model(request)
        card = await self._poller.card(model)
        if card is not None and card.has_tokenizer == self._is_upstream(model):
            card = None  # of the time when another backend ran it
        if card is not None:
            _check_dimensions(card, request.dimensions)
            sampling = self._sampling(request, model)
            check_parameters(card.model, card.parameters, sampling, request.prompts)
            if card.has_tokenizer:
                _check_token_ids(card, request.sampling)
        return _Target(model, card, scoring, routing)

    async def _specs(
        self,
        request: JobRequest,
        target: _Target,
        key_id: str,
        request_id: str,
    ) -> list[JobSpec]:
        request = replace(request, sampling=self._sampling(request, target.model))
        spec = JobSpec(
            job_id=request.group_id or str(uuid.uuid4()),
            key_id=key_id,
            model=target.model,
            job_class=request.job_class,
            sampling=request.sampling,
            stream_token="",
            request_id=request_id,
            user_id=request.user_id,
            metadata=request.metadata,
            reply=request.reply,
            scoring=target.scoring,
            routing=target.routing,
        )
        if target.scoring is not None:
            # As texts: the worker knows where to cut them.
            return [replace(spec, inputs=request.inputs, stream_token=_stream_token())]
        if request.inputs is not None:
            return [await self._embedding_spec(spec, target.card, request.inputs)]
        return await self._generating_specs(spec, target.card, request)

    async def _scored_by(self, task: ScoringTask) -> tuple[str, ScoringTask]:
        """The model whose workers score, and the task as they need it."""
        card, model = await self._scorers.find(task.scorer)
        check_candidates(card.name, card.models, task.models)
        return model, replace(task, context_length=card.context_length)

    async def _embedding_spec(
        self, spec: JobSpec, card: ModelCard | None, inputs: tuple[Input, ...]
    ) -> JobSpec:
        if card is None:
            check_count(inputs)
        else:
            inputs = await self._tokenizers.encode_inputs(card, inputs)
        return replace(spec, inputs=inputs, stream_token=_stream_token())

    async def _generating_specs(
        self, spec: JobSpec, card: ModelCard | None, request: JobRequest
    ) -> list[JobSpec]:
        if request.sampling.grammar is not None:
            await self._grammars.check(request.sampling.grammar, spec.key_id)
        job_ids = member_ids(spec.job_id, len(request.prompts))
        specs = []
        for index, (job_id, prompt) in enumerate(zip(job_ids, request.prompts, strict=True)):
            try:
                ids, sampling = await self._prepared(card, prompt, request)
            except InvalidRequestError as error:
                raise _of_prompt(error, index, len(job_ids)) from None
            specs.append(
                replace(
                    spec,
                    job_id=job_id,
                    sampling=sampling,
                    stream_token=_stream_token(),
                    prompt_ids=ids,
                    prompt=prompt if ids is None else None,
                )
            )
        return specs

    async def _prepared(
        self, card: ModelCard | None, prompt: Prompt, request: JobRequest
    ) -> tuple[tuple[int, ...] | None, SamplingSpec]:
        """The prompt's ids, None where nobody here can encode it, and its sampling."""
        sampling = request.sampling
        if not request.is_seeded:
            sampling = replace(sampling, seed=secrets.randbelow(MAX_SEED + 1))
        if card is None or not card.has_tokenizer:
            return None, sampling
        ids = await self._tokenizers.encode(card, prompt)
        sampling.check_size(len(ids))
        default, least = self._settings.max_new_tokens, sampling.min_tokens
        most = fit(card, len(ids), sampling.max_tokens, default, least)
        return ids, sampling.with_max_tokens(most)

    def _sampling(self, request: JobRequest, model: str) -> SamplingSpec:
        """As asked for; our default of `top_k` is none of another server's."""
        if request.has_default_top_k and self._is_upstream(model):
            return replace(request.sampling, top_k=0)
        return request.sampling

    def _is_upstream(self, model: str) -> bool:
        return any(entry.is_upstream for entry in self._catalog.entries if entry.model == model)

    def _model(self, request: JobRequest) -> str:
        try:
            entry = self._catalog.resolve(request.model)
        except ModelNotFoundError:
            if request.model != AUTO:
                raise
            raise InvalidRequestError(
                "model auto goes with a router that picks the model; got none.", param="router"
            ) from None
        if request.inputs is None and entry.kind != "generate":
            raise InvalidRequestError(
                f"Model '{entry.model}' makes embeddings; it cannot generate", param="model"
            )
        if request.inputs is not None and entry.kind != "embed":
            raise InvalidRequestError(
                f"Model '{entry.model}' generates; embeddings are made by models of kind embed",
                param="model",
            )
        return entry.model

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


def _check_dimensions(card: ModelCard, dimensions: int | None) -> None:
    if dimensions in (None, card.embedding_size):
        return
    raise InvalidRequestError(
        f"dimensions must be {card.embedding_size}, the size of the embeddings of '{card.model}', "
        f"or be left out; got {dimensions}.",
        param="dimensions",
    )


def _stream_token() -> str:
    return secrets.token_urlsafe(24)


def _check_token_ids(card: ModelCard, sampling: SamplingSpec) -> None:
    biased = [token_id for token_id, _ in sampling.logit_bias]
    for name, ids in {"stop_token_ids": sampling.stop_token_ids, "logit_bias": biased}.items():
        for token_id in ids:
            if token_id >= card.vocab_size:
                raise InvalidRequestError(
                    f"{name} must name tokens of '{card.model}', from 0 to {card.vocab_size - 1}; "
                    f"got {token_id}.",
                    param=name,
                )


def _of_prompt(error: InvalidRequestError, index: int, count: int) -> InvalidRequestError:
    """The error of one prompt of several says which."""
    if count == 1:
        return error
    message = f"Prompt {index + 1} of {count}: {error.message}"
    return type(error)(message, param=error.param)


def _replayed(answer: Submitted) -> Accepted:
    earlier = answer.replayed
    assert earlier is not None
    jobs = tuple(AcceptedJob(job.job_id, job.stream_token, job.status) for job in earlier.jobs)
    return Accepted(earlier.group_id, jobs, answer)
