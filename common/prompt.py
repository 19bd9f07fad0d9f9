"""From a text or chat messages to token ids, by a model's card and tokenizer file alone.

The gateway and the worker use the same `PromptEncoder`: the gateway for every job of a model that
a worker has announced, the worker for jobs that were accepted before. Knows nothing about models'
weights, queues or HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from common.errors import ContextLengthError, InvalidRequestError
from common.model_card import ModelCard
from common.schemas import Message, Prompt

PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


class PromptEncoder:
    """Encodes prompts for one model. Thread-safe."""

    def __init__(self, card: ModelCard, tokenizer_json: str) -> None:
        self.card = card
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._template = None
        if card.chat_template is not None:
            self._template = _environment().from_string(card.chat_template)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt: through the chat template, except where it is raw.

        Raises:
            InvalidRequestError: The template refuses the messages, nothing is left to read, or a
                token id is not the model's.
        """
        if prompt.token_ids is not None:
            return self._checked(prompt.token_ids)
        if prompt.messages is not None:
            text, is_rendered = self.render(prompt.messages), True
        elif prompt.raw or self._template is None:
            text, is_rendered = prompt.text or "", False
        else:
            text, is_rendered = self.render([{"role": "user", "content": prompt.text}]), True
        # A template writes its own special tokens, so none are added to what it rendered.
        ids = self.tokenizer.encode(text, add_special_tokens=not is_rendered).ids
        if not ids:
            raise InvalidRequestError("The prompt is empty: expected at least one token.")
        return tuple(ids)

    def _checked(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        if not token_ids:
            raise InvalidRequestError(
                "The prompt is empty: expected at least one token.", param="prompt"
            )
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < self.card.vocab_size:
                raise InvalidRequestError(
                    f"prompt must hold tokens of '{self.card.model}', from 0 to "
                    f"{self.card.vocab_size - 1}; got {token_id}.",
                    param="prompt",
                )
        return token_ids

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the model's template makes of chat messages, ready for the answer.

        Raises:
            InvalidRequestError: The template refuses them.
        """
        if self._template is None:
            return render_plain(messages)
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=True, **self.card.special_tokens
            )
        except TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template refuses the messages: {error}", param="messages"
            ) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            # What the template's own expressions can raise.
            raise InvalidRequestError(
                "The model's chat template cannot be used with these messages.", param="messages"
            ) from error


def fit(
    card: ModelCard, num_prompt: int, max_tokens: int | None, default: int, min_tokens: int = 0
) -> int:
    """The number of tokens to generate.

    Args:
        card: The model.
        num_prompt: Tokens of the prompt.
        max_tokens: As the client asked for, or None; 0 where only the prompt is read.
        default: Where the client did not ask; cut to what the context still holds.
        min_tokens: Raises the default.

    Raises:
        ContextLengthError: The prompt, or the prompt and `max_tokens` or `min_tokens`, do not fit.
    """
    room = card.context_length - num_prompt
    if room < (0 if max_tokens == 0 else 1):
        raise ContextLengthError(
            f"The prompt has {num_prompt} tokens; the context length of '{card.model}' is "
            f"{card.context_length}, and at least one token has to be generated.",
            param="prompt",
        )
    if max_tokens is None and min_tokens > room:
        raise ContextLengthError(
            f"The prompt has {num_prompt} tokens and min_tokens is {min_tokens}: "
            f"{num_prompt + min_tokens} together, but the context length of '{card.model}' is "
            f"{card.context_length}.",
            param="min_tokens",
        )
    if max_tokens is None:
        return min(max(default, min_tokens), room)
    if max_tokens > room:
        raise ContextLengthError(
            f"The prompt has {num_prompt} tokens and max_tokens is {max_tokens}: "
            f"{num_prompt + max_tokens} together, but the context length of '{card.model}' is "
            f"{card.context_length}.",
            param="max_tokens",
        )
    return max_tokens


def render_plain(messages: Sequence[Message]) -> str:
    """`System: ...`, `User: ...`, `Assistant: ...`, for models without a template.

    Raises:
        InvalidRequestError: A role is none of the three.

    Source:
        The message format of `002_a975337e2d09907a.txt`.
    """
    lines = []
    for message in messages:
        role = message["role"]
        if role not in PLAIN_ROLES:
            raise InvalidRequestError(
                f"role must be one of {', '.join(PLAIN_ROLES)}; got '{role}'.", param="messages"
            )
        lines.append(f"{PLAIN_ROLES[role]}: {message['content']}")
    return "\n\n".join([*lines, "Assistant:"])


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that Hugging Face chat templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise TemplateError(message)
