"""From a text or chat messages to token ids, by a model's card and tokenizer file alone.

The gateway and the worker use the same `PromptEncoder`: the gateway for every job of a model that
a worker has announced, the worker for jobs that were accepted before. Knows nothing about models'
weights, queues or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from common.chat_template import TIME_LIMIT_S, ChatTemplate, RenderingTooLongError, joined
from common.errors import ContextLengthError, InvalidRequestError
from common.model_card import ModelCard
from common.schemas import Message, Prompt
from common.special_tokens import SpecialTokens
from common.tool_calls.families import Family, family_of
from common.tool_calls.system_text import as_texts

PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


class PromptEncoder:
    """Encodes prompts for one model. Thread-safe.

    Attributes:
        family: How the model writes calls, where it is given tools; for
            `common.tool_calls.parser` and `common.tool_calls.forcing`.
    """

    def __init__(self, card: ModelCard, tokenizer_json: str) -> None:
        """Read the tokenizer and compile the templates.

        Raises:
            ModelLoadError: A template cannot be compiled.
        """
        self.card = card
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._special = SpecialTokens(self.tokenizer)
        self._template = _template(card, card.chat_template)
        tool_template = _template(card, card.tool_template) or self._template
        self.family = Family.GENERIC
        if tool_template is not None and tool_template.reads_tools:
            self.family = family_of(tool_template.source)
        self._tool_template = None if self.family is Family.GENERIC else tool_template

    def encode(
        self,
        prompt: Prompt,
        *,
        time_limit_s: float = TIME_LIMIT_S,
        max_chars: int | None = None,
    ) -> tuple[int, ...]:
        """The token ids of a prompt: through the chat template, except where it is raw.

        Special tokens in a raw prompt are read as such, those in messages and tools as text.

        Args:
            prompt: What the client sent.
            time_limit_s: Of processor time for the template.
            max_chars: Of what the template makes.

        Raises:
            InvalidRequestError: The template refuses the messages, nothing is left to read, or a
                token id is not the model's.
            RenderingTooLongError: `time_limit_s` is over, and was below `TIME_LIMIT_S`, or there
                are more than `max_chars`.
        """
        if prompt.token_ids is not None:
            return self._checked(prompt.token_ids)
        messages: Sequence[Message] | None = prompt.messages
        if messages is None and not prompt.raw and self._template is not None:
            messages = [{"role": "user", "content": prompt.text}]
        if messages is None:
            ids = self._encode_text(prompt.text or "", max_chars, is_raw=True)
        else:
            ids = self._encode_chat(messages, prompt, time_limit_s, max_chars)
        if not ids:
            raise _no_tokens()
        return tuple(ids)

    def _encode_chat(
        self,
        messages: Sequence[Message],
        prompt: Prompt,
        time_limit_s: float,
        max_chars: int | None,
    ) -> list[int]:
        # A client may name special tokens to the template; what else it sends is text.
        kwargs = dict(prompt.template_kwargs or {})
        named = {name: kwargs.pop(name) for name in self.card.special_tokens if name in kwargs}
        sent = (list(messages), prompt.tools, kwargs)
        disarmed = self._special.disarmed(sent)
        messages, tools, kwargs = disarmed
        text = self.render(
            messages, tools=tools, kwargs={**kwargs, **named}, time_limit_s=time_limit_s
        )
        if disarmed == sent and not self._special.match_variants:
            return self._encode_text(text, max_chars, is_raw=False)
        if max_chars is not None and (len(text) > max_chars or not self._special.is_ready):
            raise RenderingTooLongError
        return self._special.encode(text)

    def _encode_text(self, text: str, max_chars: int | None, *, is_raw: bool) -> list[int]:
        if max_chars is not None and len(text) > max_chars:
            raise RenderingTooLongError
        # A template writes its own special tokens, so none are added to what it rendered.
        # As a batch: `encode` holds the interpreter lock, for two seconds over a megabyte.
        [encoding] = self.tokenizer.encode_batch([text], add_special_tokens=is_raw)
        return list(encoding.ids)

    def _checked(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        if not token_ids:
            raise _no_tokens()
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < self.card.vocab_size:
                raise InvalidRequestError(
                    f"prompt must hold tokens of '{self.card.model}', from 0 to "
                    f"{self.card.vocab_size - 1}; got {token_id}.",
                    param="prompt",
                )
        return token_ids

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> str:
        """The text that the model's template makes of chat messages, ready for the answer.

        Where the template reads tools and writes calls in a known form, it is given tools and
        calls as they are. Else they are told as texts (`common.tool_calls.system_text`).

        Args:
            messages: From `common.chat_messages`, or of texts alone.
            tools: In OpenAI's form; an empty list is none.
            kwargs: More variables for the template.
            time_limit_s: Of processor time for the template.

        Raises:
            InvalidRequestError: The template refuses them.
            RenderingTooLongError: `time_limit_s` is over, and was below `TIME_LIMIT_S`.
        """
        template = self._template
        if self._tool_template is not None and tools:
            template = self._tool_template
        if template is None or self._tool_template is None:
            takes_system = template is None or template.reads_system
            messages = as_texts(messages, tools, takes_system=takes_system)
            tools = None
        if template is None:
            return render_plain(messages)
        return template.render(
            template.fitted(messages), tools=tools or None, kwargs=kwargs, time_limit_s=time_limit_s
        )


def _template(card: ModelCard, source: str | None) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source, card.special_tokens)


def _no_tokens() -> InvalidRequestError:
    return InvalidRequestError("prompt must have at least one token; got none.", param="prompt")


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
    assert card.context_length is not None, "who encodes prompts knows how long they may be"
    room = card.context_length - num_prompt
    # OpenAI's words: by them litellm knows that a model with a larger context could answer.
    limit = f"This model's maximum context length is {card.context_length} tokens."
    if room < (0 if max_tokens == 0 else 1):
        raise ContextLengthError(
            f"{limit} There are {num_prompt} in the prompt, and at least one has to be generated.",
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
            f"{limit} There are {num_prompt} in the prompt and max_tokens is {max_tokens}: "
            f"{num_prompt + max_tokens} together.",
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
        content = message["content"]
        text = content if isinstance(content, str) else joined(content)
        lines.append(f"{PLAIN_ROLES[role]}: {text}")
    return "\n\n".join([*lines, "Assistant:"])
