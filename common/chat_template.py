"""A model's chat template: Jinja from its checkpoint, rendered as `transformers` renders it.

Templates come with models, and messages from anybody, so a rendering is bounded in time, memory
and output (`common.jinja_sandbox`). Knows nothing about tokens.

To add a template of ours for models that come without one: put it into `chat_templates/` and name
the special tokens by which such a model is known in `STAND_INS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta

from common.errors import InvalidRequestError, ModelLoadError
from common.jinja_sandbox.budget import Budget, LimitError, TimeLimitError
from common.jinja_sandbox.environment import BoundedEnvironment
from common.schemas import Message

TIME_LIMIT_S = 0.5
"""Of processor time; the longest of the known templates takes milliseconds."""
MAX_SOURCE_CHARS = 256 * 1024
MAX_ERROR_CHARS = 500
KWARGS_PARAM = "chat_template_kwargs"

STAND_INS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""Our own templates, and the tokens that a vocabulary has where one of them fits."""

_FOLDER = Path(__file__).with_name("chat_templates")
_MARK = "baton-probe"
_REFUSAL = "The model's chat template refuses the messages"
_RAISED = (
    *(TypeError, ValueError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, MemoryError),
)
"""What a template's own expressions can raise."""
# Names that are not for a client to set; what templates call is not either.
_OURS = frozenset(("messages", "tools", "add_generation_prompt", "loop", "self", "caller"))
_QUOTES = ("'", '"')


class RenderingTooLongError(Exception):
    """A rendering takes more than the caller gave it, which is less than it may have."""


class ChatTemplate:
    """One template; thread-safe.

    Attributes:
        source: Its text.
        reads_tools: Whether it looks at `tools` at all.
        reads_system: Whether it takes a system message.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """Compile it, and find out what it reads.

        Args:
            source: Jinja.
            special_tokens: `bos_token`, `eos_token`, ... as the template names them.

        Raises:
            ModelLoadError: It cannot be compiled.
        """
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        self._environment = BoundedEnvironment()
        self._template, names = _compile(self._environment, source)
        self.reads_tools = "tools" in names
        user, parts = {"role": "user", "content": _MARK}, _as_parts(_MARK)
        self._reads_text = self._shows(user)
        self._reads_parts = self._shows({**user, "content": parts})
        self._reads_only_parts = self._reads_parts and not self._reads_text
        text, other = (parts, _as_parts("?")) if self._reads_only_parts else (_MARK, "?")
        self.reads_system = self._shows(
            {"role": "system", "content": text}, {"role": "user", "content": other}
        )

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> str:
        """The text for chat messages, ready for the assistant's answer.

        Args:
            messages: As the template is to see them; see `fitted`.
            tools: Functions in OpenAI's form, for a template that reads them.
            kwargs: More variables for the template, such as `enable_thinking` or `documents`.
            time_limit_s: Of processor time of this thread.

        Raises:
            InvalidRequestError: The template refuses the messages, or it would take too much.
            RenderingTooLongError: `time_limit_s` is over, and was below `TIME_LIMIT_S`.
        """
        self._check_kwargs(kwargs or {})
        variables = {
            "documents": None,
            **self._special_tokens,
            **(kwargs or {}),
            "messages": list(messages),
            "tools": None if tools is None else list(tools),
            "add_generation_prompt": True,
        }
        try:
            with self._environment.spending(Budget(time_limit_s)):
                return self._template.render(variables)
        except LimitError as error:
            if isinstance(error, TimeLimitError) and time_limit_s < TIME_LIMIT_S:
                raise RenderingTooLongError from error
            raise InvalidRequestError(
                f"The model's chat template cannot be used with these messages: {error}.",
                param="messages",
            ) from error
        except TemplateError as error:
            said = str(error)[:MAX_ERROR_CHARS]
            raise InvalidRequestError(f"{_REFUSAL}: {said}", param="messages") from error
        except _RAISED as error:
            raise InvalidRequestError(
                "The model's chat template cannot be used with these messages.", param="messages"
            ) from error

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """Messages with their contents in the form that this template reads.

        A list of text parts becomes one text, its parts on lines of their own, where the template
        reads no lists; a text becomes a list of one part where it reads nothing else.
        """
        return [{**message, **self._fitted_content(message)} for message in messages]

    def _shows(self, *messages: Message) -> bool:
        """Whether the mark in these messages arrives, and not as a part of a list's own text."""
        try:
            before, mark, _ = self.render(messages).partition(_MARK)
        except InvalidRequestError:
            return False
        return bool(mark) and not before.endswith(_QUOTES)

    def _fitted_content(self, message: Message) -> Message:
        content = message.get("content")
        if isinstance(content, str):
            return {"content": _as_parts(content)} if self._reads_only_parts else {}
        if isinstance(content, list) and not self._reads_parts:
            return {"content": joined(content)}
        return {}

    def _check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        for name in kwargs:
            if name in _OURS or name in self._environment.globals:
                raise InvalidRequestError(
                    f"{KWARGS_PARAM} must not set '{name}', which has its own place.",
                    param=f"{KWARGS_PARAM}.{name}",
                )


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def joined(parts: Sequence[Mapping[str, Any]]) -> str:
    """The texts of a content's parts, each on lines of its own."""
    return "\n".join(part["text"] for part in parts)


def stand_in(has_token: Callable[[str], bool]) -> str | None:
    """The source of our own template for a model that has none, or None.

    Args:
        has_token: Whether the model's vocabulary has a token.
    """
    for name, tokens in STAND_INS.items():
        if all(has_token(token) for token in tokens):
            return (_FOLDER / f"{name}.jinja").read_text("utf-8")
    return None


def _compile(environment: BoundedEnvironment, source: str) -> tuple[Template, set[str]]:
    if len(source) > MAX_SOURCE_CHARS:
        raise ModelLoadError(
            f"the chat template has {len(source):,} characters, {MAX_SOURCE_CHARS:,} at most"
        )
    try:
        names = meta.find_undeclared_variables(environment.parse(source))
        return environment.from_string(source), names
    except TemplateSyntaxError as error:
        raise ModelLoadError(
            f"line {error.lineno} of the chat template: {error.message}"
        ) from error
    except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelLoadError("the chat template cannot be compiled") from error
