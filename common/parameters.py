"""What a request can ask for that not every backend can honour.

The gateway asks by the model's card, the worker by the server that it is about to send the job to.
Everything that is not named here every backend can do: `max_tokens`, `temperature`, `top_p`,
`stop`, `seed`, `n` and tools (which are told as texts where a model has no form of its own).
"""

from __future__ import annotations

from collections.abc import Collection

from common.errors import InvalidRequestError
from common.sampling import SamplingSpec
from common.schemas import Prompt

SAMPLING = (
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("ignore_eos", "min_tokens", "stop_token_ids", "logit_bias", "logprobs", "prompt_logprobs"),
)
"""By their fields in `SamplingSpec`: asked for where they differ from the default."""
GRAMMARS = ("json_object", "json_schema", "regex", "choice", "lark")
"""By their `GrammarSpec.kind`."""
PROMPTS = ("token_ids", "template_kwargs")
"""By their fields in `Prompt`."""

_PARAMS = {
    **dict.fromkeys(GRAMMARS, "response_format"),
    "token_ids": "prompt",
    "template_kwargs": "chat_template_kwargs",
}
"""The request's field, where it is called otherwise."""
_MEANINGS = {
    "json_object": "of type json_object",
    "json_schema": "of type json_schema",
    "regex": "of type regex",
    "choice": "of type choice",
    "lark": "with a forced tool_choice",
    "token_ids": "of token ids",
}
_NO_DIFFERENCE = SamplingSpec(max_tokens=None, time_limit_s=0, seed=0)


def check_parameters(
    model: str,
    honoured: Collection[str] | None,
    sampling: SamplingSpec,
    prompts: Collection[Prompt],
) -> None:
    """Refuse a request that asks for what the backend of its model cannot do.

    Args:
        model: Its id, for the message.
        honoured: Names of this module; None: all.
        sampling: Of the request.
        prompts: All of its prompts.

    Raises:
        InvalidRequestError: It does; the message says which parameter it is.
    """
    if honoured is None:
        return
    for name in _asked_for(sampling, prompts):
        if name not in honoured:
            param = _PARAMS.get(name, name)
            asked = f"{param} {_MEANINGS[name]}" if name in _MEANINGS else param
            raise InvalidRequestError(
                f"{asked} is not supported for '{model}': the server that runs this model cannot "
                "honour it.",
                param=param,
            )


def _asked_for(sampling: SamplingSpec, prompts: Collection[Prompt]) -> list[str]:
    asked = [n for n in SAMPLING if getattr(sampling, n) != getattr(_NO_DIFFERENCE, n)]
    if sampling.grammar is not None:
        asked.append(sampling.grammar.kind)
    asked += [n for n in PROMPTS if any(getattr(prompt, n) for prompt in prompts)]
    return asked
