"""What OpenAI's bodies ask the submitter for, with the defaults of `004_d314d6d6ae5d2d3d.txt`."""

from __future__ import annotations

from api.job_request import JobRequest, by_strategy, router_of
from api.openai.chat_request import ChatRequest
from api.openai.completion_request import CompletionRequest
from api.openai.fields import OpenAIRequest
from api.response_format import ResponseFormat
from api.schemas import DEFAULT_TOP_K, MAX_SEED
from common.chat_messages import normalize_messages
from common.grammar import GrammarSpec
from common.sampling import SamplingSpec
from common.schemas import Prompt
from common.settings import Settings
from common.tool_calls.definitions import parse_tool_choice, parse_tools
from common.tool_calls.families import Family
from common.tool_calls.forcing import grammar_for


def chat_job(body: ChatRequest, settings: Settings, family: Family) -> JobRequest:
    """One job for a chat, however many choices it has.

    Args:
        body: As it came.
        settings: For the defaults.
        family: How the model writes its calls of tools.

    Raises:
        InvalidRequestError: Something is wrong with the messages or the tools.
    """
    tools = parse_tools(body.tools)
    choice = parse_tool_choice(body.tool_choice, tools)
    told = tools if choice.mode != "none" else ()
    calling = grammar_for(choice, tools, family, parallel=body.parallel_tool_calls is not False)
    sampling = sampling_of(
        body,
        settings,
        max_tokens=body.most_tokens,
        logprobs=body.num_logprobs,
        # An answer that has to be a call has nothing else in it that a format could speak of.
        grammar=calling or _grammar_of(body.response_format),
        # Some models mark their calls with special tokens.
        skip_special_tokens=not told,
    )
    prompt = Prompt(
        messages=normalize_messages(body.messages),
        tools=tuple(tool.for_template() for tool in told) or None,
        template_kwargs=body.chat_template_kwargs or None,
    )
    params = {"prompt": "messages"}
    if body.max_completion_tokens is not None:
        params["max_tokens"] = "max_completion_tokens"
    if calling is not None:
        params["response_format"] = "tools"
    return _request(body, (prompt,), sampling, params)


def completion_job(body: CompletionRequest, settings: Settings) -> JobRequest:
    """One job for each prompt of a completion."""
    sampling = sampling_of(
        body,
        settings,
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.prompt_logprobs,
        grammar=_grammar_of(body.response_format),
    )
    return _request(body, body.prompts, sampling, {"prompt_logprobs": "logprobs"})


def _grammar_of(response_format: ResponseFormat | None) -> GrammarSpec | None:
    return None if response_format is None else response_format.grammar()


def _request(
    body: OpenAIRequest,
    prompts: tuple[Prompt, ...],
    sampling: SamplingSpec,
    params: dict[str, str],
) -> JobRequest:
    return JobRequest(
        prompts=prompts,
        sampling=sampling,
        is_seeded=body.seed is not None,
        model=body.model,
        job_class=body.priority or "normal",
        user_id=body.user,
        metadata=body.metadata,
        params=params,
        has_default_top_k=has_default_top_k(body),
        router=router_of(body),
    )


def has_default_top_k(body: OpenAIRequest) -> bool:
    """Whether `top_k` is nothing that the client has asked for."""
    return body.top_k is None and body.strategy != "top_k"


def sampling_of(
    body: OpenAIRequest,
    settings: Settings,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    grammar: GrammarSpec | None,
    prompt_logprobs: int | None = None,
    skip_special_tokens: bool = True,
) -> SamplingSpec:
    """What a body says of sampling, with the defaults where it says nothing."""
    temperature, top_p, top_k = by_strategy(
        body.strategy,
        settings.temperature if body.temperature is None else body.temperature,
        settings.top_p if body.top_p is None else body.top_p,
        DEFAULT_TOP_K if body.top_k is None else body.top_k,
    )
    return SamplingSpec(
        max_tokens=max_tokens,
        time_limit_s=settings.task_time_limit if body.timeout is None else body.timeout,
        # OpenAI's seeds may be negative.
        seed=(body.seed or 0) % (MAX_SEED + 1),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        stop=tuple(body.stop or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=body.min_tokens or 0,
        grammar=grammar,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=tuple(sorted((body.logit_bias or {}).items())),
        logprobs=logprobs,
        n=body.n or 1,
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=skip_special_tokens,
    )
