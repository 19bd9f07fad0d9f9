"""What Ollama is sent: path, body and options of a request."""

from __future__ import annotations

import json
from typing import Any

from common.grammar import GrammarSpec
from worker.backends.plain_messages import plain_messages
from worker.backends.wire import Ask, UpstreamRefusal


def request_of(ask: Ask, stop: tuple[str, ...], num_ctx: int | None) -> tuple[str, dict[str, Any]]:
    """Path and body of a request.

    Args:
        ask: What is wanted.
        stop: The model's own stop texts, which those of a request would replace.
        num_ctx: Tokens of context; None: as the server is set.

    Raises:
        UpstreamRefusal: Ollama takes no such request.
    """
    prompt = ask.prompt
    body: dict[str, Any] = {
        "model": ask.model,
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": options_of(ask, stop, num_ctx),
    }
    if ask.sampling.grammar is not None:
        body["format"] = _format(ask.sampling.grammar)
    if (think := _think(ask)) is not None:
        body["think"] = think
    if prompt.messages is None and prompt.raw:
        if not prompt.text:
            raise UpstreamRefusal("an empty raw prompt; it takes one of a character or more.")
        return "/api/generate", body | {"prompt": prompt.text, "raw": True}
    return "/api/chat", body | {"messages": plain_messages(ask.prompt)}


def options_of(ask: Ask, stop: tuple[str, ...], num_ctx: int | None) -> dict[str, Any]:
    """What Ollama calls the sampling parameters; all of them, for its own defaults are others."""
    sampling = ask.sampling
    is_greedy = sampling.temperature == 0 or sampling.top_p == 0
    options: dict[str, Any] = {
        "num_predict": ask.max_tokens,
        "temperature": 0 if is_greedy else sampling.temperature,
        "top_p": 1 if is_greedy else sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": ask.seed,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_last_n": -1,  # the whole text counts, as with our own engine
    }
    if sampling.stop:
        options["stop"] = list(dict.fromkeys((*sampling.stop, *stop)))
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    return options


def _think(ask: Ask) -> bool | None:
    """Whether to think; None: as the model does by itself."""
    kwargs = dict(ask.prompt.template_kwargs or {})
    wanted = kwargs.pop("enable_thinking", None)
    if kwargs or not (wanted is None or isinstance(wanted, bool)):
        raise UpstreamRefusal(
            "chat_template_kwargs may hold enable_thinking, true or false, and no more; got "
            f"{', '.join(kwargs) or repr(wanted)}"
        )
    if ask.sampling.grammar is not None or (ask.prompt.messages is None and ask.prompt.raw):
        # The whole text has the form that is asked for; and of a raw prompt nothing is taken apart.
        return False
    return wanted


def _format(grammar: GrammarSpec) -> Any:
    return "json" if grammar.kind == "json_object" else json.loads(grammar.text)
