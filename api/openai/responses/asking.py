"""What the body of a response asks the submitter for, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from api.gateway import Gateway
from api.job_request import JobRequest, router_of
from api.openai.job_requests import has_default_top_k, sampling_of
from api.openai.responses.conversation import (
    EARLIER,
    Item,
    messages_of,
    parse_input,
    with_ids,
)
from api.openai.responses.lookup import find_response
from api.openai.responses.reply import PARAMS, Reply
from api.openai.responses.request import ResponseRequest
from api.openai.responses.tools import parse_flat_choice, parse_flat_tools
from api.openai.responses.view import output_of, status_of
from common.errors import InvalidRequestError, ModelNotFoundError, ResponseNotFoundError
from common.grammar import GrammarSpec
from common.schemas import Prompt
from common.settings import Settings
from common.tool_calls.definitions import Tool
from common.tool_calls.families import Family
from common.tool_calls.forcing import grammar_for


async def job_of(body: ResponseRequest, gateway: Gateway, key_id: str) -> JobRequest:
    """The job that a body asks for.

    Raises:
        InvalidRequestError: Something is wrong with the input or the tools, or there is no earlier
            response of that id to go on from.
        RedisUnavailableError: Redis is away.
    """
    items = parse_input(body.input)
    tools = parse_flat_tools(body.tools)
    flat = parse_flat_choice(body.tool_choice, tools)
    told = flat.allowed if flat.choice.mode != "none" else ()
    family = await _family(body, gateway) if told else None
    calling = grammar_for(
        flat.choice,
        flat.allowed,
        family or Family.GENERIC,
        parallel=body.parallel_tool_calls is not False,
    )
    if calling is not None and family is None:
        family = Family.GENERIC  # the grammar has it written so, whatever the model turns out to be
    earlier = await _earlier(body.previous_response_id, gateway, key_id)
    prompt = Prompt(
        messages=messages_of(body.instructions, earlier, items),
        tools=tuple(tool.for_template() for tool in told) or None,
        template_kwargs=body.chat_template_kwargs or None,
    )
    reply = _reply(body, [*earlier, *items], tools, flat.shown, family, reads_calls=bool(told))
    return _job(body, gateway.settings, prompt, calling, reply)


def _job(
    body: ResponseRequest,
    settings: Settings,
    prompt: Prompt,
    calling: GrammarSpec | None,
    reply: str,
) -> JobRequest:
    written = None if body.format is None else body.format.grammar()
    sampling = sampling_of(
        body,
        settings,
        max_tokens=body.max_output_tokens,
        logprobs=body.num_logprobs,
        # An answer that has to be a call has nothing else in it that a format could speak of.
        grammar=calling or written,
        # Some models mark their calls with special tokens.
        skip_special_tokens=prompt.tools is None,
    )
    return JobRequest(
        prompts=(prompt,),
        sampling=sampling,
        is_seeded=body.seed is not None,
        model=body.model,
        job_class=body.priority or "normal",
        user_id=body.user,
        metadata=body.metadata,
        params=PARAMS if calling is None else PARAMS | {"response_format": "tools"},
        reply=reply,
        has_default_top_k=has_default_top_k(body),
        router=router_of(body),
    )


def _reply(
    body: ResponseRequest,
    items: Sequence[Item],
    tools: Sequence[Tool],
    tool_choice: str | dict[str, Any],
    family: Family | None,
    *,
    reads_calls: bool,
) -> str:
    written = body.format
    text = {"type": "text"}
    if written is not None:
        text = written.model_dump(mode="json", by_alias=True, exclude_none=True)
    reply = Reply(
        items=tuple(items),
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        is_background=bool(body.background),
        is_stored=body.is_stored,
        text={"format": text},
        tools=tuple(_shown(tool) for tool in tools),
        tool_choice=tool_choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        max_output_tokens=body.max_output_tokens,
        reads_calls=reads_calls,
        family=family,
    )
    packed = reply.pack()
    try:
        packed.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "tools must be valid Unicode, without lone surrogates.", param="tools"
        ) from None
    return packed


def _shown(tool: Tool) -> dict[str, object]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


async def _family(body: ResponseRequest, gateway: Gateway) -> Family | None:
    """How the model writes its calls; None where no worker has announced it yet."""
    # Whether there is such a model is for the submission to say: a repeat may do without.
    with suppress(ModelNotFoundError):
        card = await gateway.poller.card(gateway.catalog.resolve(body.model).model)
        if card is not None:
            return await gateway.tokenizers.family(card)
    return None


async def _earlier(response_id: str | None, gateway: Gateway, key_id: str) -> tuple[Item, ...]:
    """What an earlier response was given, and what it has answered."""
    if response_id is None:
        return ()
    try:
        record, reply = await find_response(gateway, response_id, key_id)
    except ResponseNotFoundError as error:
        raise InvalidRequestError(f"{EARLIER}: {error.message}", param=EARLIER) from None
    status = status_of(record)
    if status not in ("completed", "incomplete"):
        raise InvalidRequestError(
            f"{EARLIER} must be a response that has been answered; it is {status}.",
            param=EARLIER,
        )
    output = parse_input(await output_of(gateway, record, reply))
    return (*with_ids(reply.items, record.job_id), *output)
