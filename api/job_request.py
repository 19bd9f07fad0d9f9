"""What a route asks the submitter for, whatever the body of its request looked like.

Knows nothing about models, Redis or HTTP: a route fills it in from a body that it has parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from api.schemas import (
    DEFAULT_TOP_K,
    BatchGenerateRequest,
    GenerateRequest,
    GenerationOptions,
    RouterFields,
    Strategy,
)
from common.embeddings import Input
from common.errors import RequestError
from common.sampling import SamplingSpec
from common.schemas import JobClass, Prompt
from common.scorers import ScoringTask, parse_reference
from common.settings import Settings

AUTO = "auto"
"""The model of a request whose model a router picks."""


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """Who picks the model, and how.

    Attributes:
        scorer: Its name, without its type.
        cost_weight: What a model's cost of 1 takes from its score.
    """

    scorer: str
    cost_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One job for each prompt; several are a group, accepted all or none. Or one embedding job.

    Attributes:
        prompts: At least one; none of an embedding job.
        sampling: `max_tokens` is None where the client did not say; the time limit is as asked for,
            or TASK_TIME_LIMIT.
        is_seeded: The seed came from the client; else each job gets one of its own.
        model: An id or an alias; None is the default. Of no meaning where there is a router.
        router: Picks the model; None: the request names it.
        is_rated: Counts toward the key's rate; a group counts once.
        group_id: Names the jobs, where a repeat must not make others; None: a fresh name.
        params: The route's own names of fields, where they differ from those in `SamplingSpec` and
            here, for errors that name a field.
        reply: What the route keeps with each job for its answers; None: nothing.
        inputs: What an embedding job embeds, or the prompts of a scoring job; None: the jobs
            generate.
        dimensions: The size that its vectors have to have; None: any.
        has_default_top_k: `top_k` is not the client's: for a model that another server runs, whose
            own default nobody knows, all tokens are kept.
        scoring: What a scoring job asks of its scorer, which decides the model.
    """

    prompts: tuple[Prompt, ...]
    sampling: SamplingSpec
    is_seeded: bool
    model: str | None = None
    job_class: JobClass = "normal"
    user_id: str | None = None
    metadata: dict[str, str] | None = None
    is_rated: bool = True
    group_id: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    reply: str | None = None
    inputs: tuple[Input, ...] | None = None
    dimensions: int | None = None
    has_default_top_k: bool = False
    scoring: ScoringTask | None = None
    router: RouterSpec | None = None


def generate_request(body: GenerateRequest, settings: Settings) -> JobRequest:
    """What the body of `POST /generate` asks for."""
    return _request((_prompt_of(body),), body, settings, router_of(body))


def batch_generate_request(body: BatchGenerateRequest, settings: Settings) -> JobRequest:
    """What the body of `POST /batch/generate` asks for."""
    prompts = tuple(Prompt(text=prompt, raw=body.raw) for prompt in body.prompts)
    return _request(prompts, body, settings)


def named(error: RequestError, params: Mapping[str, str]) -> RequestError:
    """The error with the field at fault called as the route's clients call it.

    Args:
        error: In the names of `SamplingSpec` and `JobRequest`.
        params: The route's own, of a `JobRequest`.
    """
    if error.param is None or error.param not in params:
        return error
    name = params[error.param]
    message = re.sub(rf"(?<![\w'\"]){re.escape(error.param)}\b", lambda _: name, error.message)
    return type(error)(message, param=name, retry_after_s=error.retry_after_s)


def _request(
    prompts: tuple[Prompt, ...],
    body: GenerationOptions,
    settings: Settings,
    router: RouterSpec | None = None,
) -> JobRequest:
    return JobRequest(
        prompts=prompts,
        sampling=_sampling_of(body, settings),
        is_seeded=body.seed is not None,
        model=body.model_name,
        job_class=body.priority,
        user_id=body.user_id,
        metadata=body.metadata,
        router=router,
    )


def router_of(body: RouterFields) -> RouterSpec | None:
    """The router that a body names."""
    if body.router is None:
        return None
    return RouterSpec(parse_reference(body.router), body.cost_weight or 0.0)


def _prompt_of(body: GenerateRequest) -> Prompt:
    if body.messages is not None:
        return Prompt(messages=tuple(message.model_dump() for message in body.messages))
    return Prompt(text=body.prompt, raw=body.raw)


def _sampling_of(body: GenerationOptions, settings: Settings) -> SamplingSpec:
    temperature = settings.temperature if body.temperature is None else body.temperature
    top_p = settings.top_p if body.top_p is None else body.top_p
    temperature, top_p, top_k = by_strategy(body.strategy, temperature, top_p, body.top_k)
    return SamplingSpec(
        max_tokens=body.max_tokens,
        time_limit_s=settings.task_time_limit if body.timeout is None else body.timeout,
        seed=body.seed or 0,
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
        grammar=None if body.response_format is None else body.response_format.grammar(),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=tuple(sorted((body.logit_bias or {}).items())),
        logprobs=body.logprobs,
    )


def by_strategy(
    strategy: Strategy | None, temperature: float, top_p: float, top_k: int
) -> tuple[float, float, int]:
    """Temperature, nucleus mass and top-k, as the strategy changes them: it wins over them."""
    if strategy == "greedy":
        return 0.0, top_p, top_k
    if strategy == "top_k":
        return temperature, 1.0, top_k or DEFAULT_TOP_K
    return temperature, top_p, 0 if strategy == "top_p" else top_k
