"""From a checked request to its jobs' specs: which model runs them, and their prompts as ids."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, replace

from api.fleet_poller import FleetPoller
from api.grammar_checker import GrammarChecker
from api.job_request import AUTO, JobRequest
from api.routing import Router
from api.schemas import MAX_SEED
from api.scorers import Scorers
from api.tokenizers import Tokenizers
from common.embeddings import Input, check_count
from common.errors import InvalidRequestError, ModelNotFoundError
from common.model_card import ModelCard
from common.model_catalog import ModelCatalog
from common.parameters import check_parameters
from common.prompt import fit
from common.sampling import SamplingSpec
from common.schemas import JobSpec, Prompt, member_ids
from common.scorers import Routing, ScoringTask, check_candidates
from common.settings import Settings


@dataclass(frozen=True, slots=True)
class Target:
    """The model that a request is for, and what it was picked by.

    Attributes:
        card: None where no worker has announced it.
    """

    model: str
    card: ModelCard | None
    scoring: ScoringTask | None
    routing: Routing | None


class SpecMaker:
    """Makes the specs of requests' jobs; nothing is stored.

    Args:
        router: Picks the model of a request that leaves it to a router.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: ModelCatalog,
        poller: FleetPoller,
        tokenizers: Tokenizers,
        grammars: GrammarChecker,
        scorers: Scorers,
        router: Router,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._poller = poller
        self._tokenizers = tokenizers
        self._grammars = grammars
        self._scorers = scorers
        self._router = router

    async def target(self, request: JobRequest, key_id: str, request_id: str) -> Target:
        """The model that a request is for; its parameters go with the model.

        Raises:
            InvalidRequestError: They do not, or the model is of the wrong kind.
            ModelNotFoundError: The model is not configured.
            ScorerNotFoundError: There is no such scorer.
            RequestError: No worker can use the scorer, or the router got no answer from it.
            RedisUnavailableError: Redis is away.
        """
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
        return Target(model, card, scoring, routing)

    async def specs(
        self,
        request: JobRequest,
        target: Target,
        key_id: str,
        request_id: str,
    ) -> list[JobSpec]:
        """The jobs, in the order of the prompts, encoded where the model's tokenizer is known.

        Raises:
            InvalidRequestError: A prompt or an input is empty or does not fit, or the grammar
                cannot be compiled.
            GatewayBusyError: Other long prompts are before these.
            RateLimitError: The key has many grammars waiting to be tried.
            QueueFullError: The machine is too busy to try the grammar.
            RedisUnavailableError: Redis is away.
        """
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
