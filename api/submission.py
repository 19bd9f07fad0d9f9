"""From a checked request to a job in its queue."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass

from api.fleet_poller import FleetPoller
from api.grammar_checker import GrammarChecker
from api.idempotency import IdempotencyKey
from api.schemas import DEFAULT_TOP_K, MAX_SEED, GenerateRequest
from api.tokenizers import Tokenizers
from common.errors import (
    InvalidRequestError,
    QueueFullError,
    RedisUnavailableError,
    RequestError,
)
from common.grammar import GrammarSpec
from common.job_store import Submissions, Submitted
from common.model_card import ModelCard
from common.model_catalog import ModelCatalog
from common.prompt import fit
from common.sampling import SamplingSpec
from common.schemas import JobSpec, JobStatus, Prompt
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
class Accepted:
    """A job that was accepted: just now, or by the submission that this one repeats.

    Attributes:
        stream_token: Opens the job's stream without a key.
    """

    job_id: str
    stream_token: str
    status: JobStatus
    answer: Submitted

    @property
    def is_replay(self) -> bool:
        """Whether an earlier submission is answered once more."""
        return self.answer.replayed is not None


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
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._jobs = jobs
        self._poller = poller
        self._tokenizers = tokenizers
        self._grammars = grammars

    async def submit(
        self,
        body: GenerateRequest,
        key_id: str,
        request_id: str,
        idempotency_key: IdempotencyKey | None = None,
    ) -> Accepted:
        """Check a request against its model, encode its prompt, and put the job in line.

        Where the idempotency key is that of an earlier submission, there is no new job: the
        answer is that one's.

        Raises:
            IdempotencyMismatchError: The idempotency key came with another request.
            TaskExpiredError: The idempotency key's job was dropped `RESULT_TTL_S` after its end.
            InvalidRequestError: The prompt is empty or does not fit, `timeout` is too long, a
                token id is not the model's, `response_format` cannot be compiled, or the model
                makes embeddings.
            ModelNotFoundError: The model is not configured.
            RateLimitError: The key is over its rate.
            QueueFullError: Too many jobs wait, or Redis's memory is nearly full.
            RedisUnavailableError: Redis is away.
        """
        idempotency = None if idempotency_key is None else idempotency_key.of(body)
        try:
            self._check_memory()
            spec = await self._spec(body, key_id, request_id)
        except RequestError:
            # What has changed since a request was accepted is no reason to refuse its repeat.
            if idempotency is None:
                raise
            earlier = await self._jobs.replay(key_id, idempotency)
            if earlier is None:
                raise
            return _replayed(earlier)
        try:
            answer = await self._jobs.submit(spec, idempotency)
        except RedisUnavailableError as error:
            # Redis may have run the script, and only the reply is missing.
            raise RedisUnavailableError(
                _PERHAPS_ACCEPTED if idempotency is None else _PERHAPS_ACCEPTED_WITH_KEY,
                retry_after_s=error.retry_after_s,
            ) from error
        if answer.replayed is not None:
            return _replayed(answer)
        return Accepted(spec.job_id, spec.stream_token, JobStatus.QUEUED, answer)

    async def _spec(self, body: GenerateRequest, key_id: str, request_id: str) -> JobSpec:
        model = self._model(body)
        time_limit_s = self._time_limit_s(body)
        prompt = _prompt_of(body)
        grammar = await self._grammar(body, key_id)
        card = await self._poller.card(model)
        ids, max_tokens = None, body.max_tokens
        if card is not None:
            _check_token_ids(card, body)
            ids = await self._tokenizers.encode(card, prompt)
            default = max(self._settings.max_new_tokens, body.min_tokens)
            max_tokens = fit(card, len(ids), body.max_tokens, default)
        return JobSpec(
            job_id=str(uuid.uuid4()),
            key_id=key_id,
            model=model,
            job_class=body.priority,
            sampling=self._sampling(body, max_tokens, time_limit_s, grammar),
            stream_token=secrets.token_urlsafe(24),
            request_id=request_id,
            prompt_ids=ids,
            prompt=prompt if ids is None else None,
            user_id=body.user_id,
            metadata=body.metadata,
        )

    def _model(self, body: GenerateRequest) -> str:
        entry = self._catalog.resolve(body.model_name)
        if entry.kind != "generate":
            raise InvalidRequestError(
                f"Model '{entry.model}' makes embeddings; it cannot generate", param="model"
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

    def _time_limit_s(self, body: GenerateRequest) -> float:
        limit_s = self._settings.task_time_limit
        if body.timeout is None:
            return limit_s
        if body.timeout > limit_s:
            raise InvalidRequestError(
                f"timeout must be at most TASK_TIME_LIMIT, {limit_s:g} seconds; "
                f"got {body.timeout:g}.",
                param="timeout",
            )
        return body.timeout

    async def _grammar(self, body: GenerateRequest, key_id: str) -> GrammarSpec | None:
        grammar = None if body.response_format is None else body.response_format.grammar()
        if grammar is not None:
            await self._grammars.check(grammar, key_id)
        return grammar

    def _sampling(
        self,
        body: GenerateRequest,
        max_tokens: int | None,
        time_limit_s: float,
        grammar: GrammarSpec | None,
    ) -> SamplingSpec:
        temperature = self._settings.temperature if body.temperature is None else body.temperature
        top_p = self._settings.top_p if body.top_p is None else body.top_p
        top_k = body.top_k
        if body.strategy == "greedy":
            temperature = 0.0
        elif body.strategy == "top_k":
            top_p, top_k = 1.0, top_k or DEFAULT_TOP_K
        elif body.strategy == "top_p":
            top_k = 0
        return SamplingSpec(
            max_tokens=max_tokens,
            time_limit_s=time_limit_s,
            seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            stop=tuple(body.stop or ()),
            ignore_eos=body.ignore_eos,
            min_tokens=body.min_tokens,
            grammar=grammar,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            logit_bias=tuple(sorted((body.logit_bias or {}).items())),
            logprobs=body.logprobs,
        )


def _check_token_ids(card: ModelCard, body: GenerateRequest) -> None:
    named = {"stop_token_ids": body.stop_token_ids or (), "logit_bias": body.logit_bias or ()}
    for name, ids in named.items():
        for token_id in ids:
            if token_id >= card.vocab_size:
                raise InvalidRequestError(
                    f"{name} must name tokens of '{card.model}', from 0 to {card.vocab_size - 1}; "
                    f"got {token_id}.",
                    param=name,
                )


def _replayed(answer: Submitted) -> Accepted:
    job = answer.replayed
    assert job is not None
    return Accepted(job.job_id, job.stream_token, job.status, answer)


def _prompt_of(body: GenerateRequest) -> Prompt:
    if body.messages is not None:
        return Prompt(messages=tuple(message.model_dump() for message in body.messages))
    return Prompt(text=body.prompt, raw=body.raw)
