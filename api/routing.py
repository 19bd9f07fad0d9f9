"""Picks the model for a request of `model: "auto"`: the best by a scorer among those served.

The scorer is asked by a job of its own, through the same queue as everything; it is dropped once
it has been read.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping

from api.cancelling import Canceller
from api.failures import failure_of
from api.fleet_poller import FleetPoller
from api.job_request import JobRequest, RouterSpec
from api.scorers import Scorers
from api.watcher import Watcher
from common.errors import EngineTimeoutError, InternalError, InvalidRequestError
from common.forgetting import Forgetting
from common.job_store import Submissions
from common.model_catalog import CatalogEntry, ModelCatalog
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobSpec, Prompt
from common.scorers import Routing, ScoringTask, answer_of, reference

ROUTE_LIMIT_S = 30.0
"""For so long a request waits for its router, in line and running."""


class Router:
    """Asks scorers which model a request should go to."""

    def __init__(
        self,
        catalog: ModelCatalog,
        jobs: Submissions,
        poller: FleetPoller,
        scorers: Scorers,
        watcher: Watcher,
        canceller: Canceller,
        forgetting: Forgetting,
    ) -> None:
        self._catalog = catalog
        self._jobs = jobs
        self._poller = poller
        self._scorers = scorers
        self._watcher = watcher
        self._canceller = canceller
        self._forgetting = forgetting

    async def pick(
        self, request: JobRequest, router: RouterSpec, key_id: str, request_id: str
    ) -> Routing:
        """The model with the highest score for a request's prompt, less what it costs.

        Raises:
            InvalidRequestError: There is not one prompt, it has no text, or the scorer knows none
                of the models that are served.
            ScorerNotFoundError: There is no such scorer.
            RequestError: The scorer cannot be used, or did not answer in time.
            RedisUnavailableError: Redis is away.
        """
        text = _text_of(request)
        card, server = await self._scorers.find(router.scorer, "router")
        served = self._served(router.scorer, card.models)
        spec = JobSpec(
            job_id=str(uuid.uuid4()),
            key_id=key_id,
            model=server,
            job_class=request.job_class,
            sampling=SamplingSpec(max_tokens=0, time_limit_s=ROUTE_LIMIT_S, seed=0),
            stream_token=secrets.token_urlsafe(24),  # an empty one would open the stream
            request_id=request_id,
            inputs=(text,),
            scoring=ScoringTask(card.name, tuple(served), context_length=card.context_length),
        )
        await self._jobs.submit(spec, is_rated=False)
        record = await self._ended(spec)
        if record.embeddings is None:
            raise InternalError("The router has ended without its scores.")
        rows = record.embeddings.floats()
        scores = {model: row for model, [row] in answer_of(list(served), rows).items()}
        return _routing(router, served, scores)

    def _served(self, scorer: str, candidates: tuple[str, ...]) -> dict[str, CatalogEntry]:
        """The candidates that are served, by the scorer's names for them.

        Those that no worker could run now are left out, unless there are no others.
        """
        generating = {
            name: entry
            for entry in self._catalog.entries
            if entry.kind == "generate"
            for name in (entry.model, *entry.names)
        }
        served = {name: generating[name] for name in candidates if name in generating}
        if not served:
            raise InvalidRequestError(
                f"router must know a model that is served; '{reference(scorer)}' knows "
                f"{', '.join(candidates)}.",
                param="router",
            )
        fleet = self._poller.fleet
        running = {n: e for n, e in served.items() if fleet is not None and fleet.can_run(e.model)}
        return running or served

    async def _ended(self, spec: JobSpec) -> JobRecord:
        if not await self._watcher.wait_for_end(spec.job_id, ROUTE_LIMIT_S):
            await self._canceller.cancel(spec.job_id, spec.key_id)
            raise EngineTimeoutError(
                f"The router did not answer within {ROUTE_LIMIT_S:g} seconds.", param="router"
            )
        record = await self._jobs.find(spec.job_id)
        if record is None:
            raise InternalError("The router's scores were dropped before they could be read.")
        await self._forgetting.forget(record)
        if (failure := failure_of(record, {})) is not None:
            raise failure
        return record


def _routing(
    router: RouterSpec, served: Mapping[str, CatalogEntry], scores: Mapping[str, float]
) -> Routing:
    """The first of those that are best, in the scorer's order."""
    values = {name: scores[name] - router.cost_weight * served[name].cost for name in served}
    best = max(values, key=lambda name: values[name])
    return Routing(
        router=reference(router.scorer),
        candidate=best,
        model=served[best].model,
        scores=dict(scores),
        cost_weight=router.cost_weight,
        costs={name: entry.cost for name, entry in served.items()} if router.cost_weight else {},
    )


def _text_of(request: JobRequest) -> str:
    """What the router reads: the prompt, or what the user has said last."""
    if len(request.prompts) != 1:
        raise InvalidRequestError(
            f"router goes with one prompt; got {len(request.prompts)}.", param="router"
        )
    text = _said_last(request.prompts[0])
    if not text.strip():
        raise InvalidRequestError(
            "router needs a text: a prompt, or a message of the user; got none.", param="router"
        )
    return text


def _said_last(prompt: Prompt) -> str:
    if prompt.messages is None:
        return prompt.text or ""
    for message in reversed(prompt.messages):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return "\n".join(part["text"] for part in content)
    return ""
