"""Reads what Ollama answers: lines of JSON, and errors."""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from typing import Any

from common.schemas import TokenUsage
from worker.backends.http_errors import refusal_of
from worker.backends.wire import Durations, Piece, UpstreamFailure, UpstreamRefusal

NUM_REPEATS = 30
"""Ollama ends an answer, without a word, that has the same text so often in a row."""
LONG_LOAD_S = 1.0

_FINISH_REASONS = {"stop": "stop", "length": "length", "": "stop"}
_ADDRESS = re.compile(r"\w+://\S+")
_MAX_ERROR_CHARS = 200

log = logging.getLogger(__name__)


class AnswerReader:
    """Reads the lines of one answer.

    Args:
        shows_thoughts: What the model thinks is part of the text.
    """

    def __init__(self, *, shows_thoughts: bool) -> None:
        self._shows_thoughts = shows_thoughts
        self._is_thinking = False
        self._last = ""
        self._num_repeats = 0
        self._is_done = False

    def piece_of(self, line: str) -> Piece:
        """One line.

        Raises:
            UpstreamRefusal: It says that the request is at fault.
            UpstreamFailure: It says that something went wrong, or is nothing that Ollama says.
        """
        try:
            said = json.loads(line)
            if "error" in said:
                raise error_of(said)
            message = said.get("message") or said
            thought = str(message.get("thinking") or "")
            text = str(message.get("content") or message.get("response") or "")
            text += "".join(map(_call_text, message.get("tool_calls") or ()))
            self._note_repeats(text or thought)
            return self._end_of(said, self._joined(thought, text))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UpstreamFailure("its answer cannot be read") from error

    @property
    def is_cut_for_repeats(self) -> bool:
        """Whether the answer, which is over, has no end because it said the same ever again."""
        return not self._is_done and self._num_repeats >= NUM_REPEATS

    def _note_repeats(self, text: str) -> None:
        is_repeated = bool(text) and text.strip() == self._last
        self._num_repeats = self._num_repeats + 1 if is_repeated else 0
        self._last = text.strip()

    def _joined(self, thought: str, text: str) -> str:
        if not self._shows_thoughts:
            return text
        if thought and not self._is_thinking:
            thought, self._is_thinking = f"<think>\n{thought}", True
        if text and self._is_thinking:
            text, self._is_thinking = f"\n</think>\n\n{text}", False
        return thought + text

    def _end_of(self, said: dict[str, Any], text: str) -> Piece:
        if not said.get("done"):
            return Piece(text)
        reason = _FINISH_REASONS.get(said.get("done_reason") or "")
        if reason is None:  # `load`, `unload`
            raise UpstreamFailure("it generated nothing")
        self._is_done = True
        if (load_s := _seconds(said, "load_duration") or 0.0) > LONG_LOAD_S:
            log.info("Ollama took %.1f s to load %s", load_s, said.get("model"))
        return Piece(text, reason, _usage(said), durations=_durations(said))


def error_of(said: Any, status: int = 500) -> UpstreamRefusal | UpstreamFailure:
    """What Ollama says of an error, which may be JSON of the engine behind it."""
    told = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(told, str) and told.startswith("{"):
        with suppress(ValueError, RecursionError):  # it may be a text that begins so
            told = json.loads(told)
    refusal = refusal_of(told if isinstance(told, dict) else {"error": told}, status)
    if refusal.is_too_long or status != 500:
        return refusal
    message = _ADDRESS.sub("(an address)", refusal.message)[:_MAX_ERROR_CHARS]
    return UpstreamFailure(f"it says: {message}")


def _call_text(call: dict[str, Any]) -> str:
    """A call that Ollama took out of the text by itself, back in the form that is read here."""
    function = call.get("function") or {}
    told = {"name": function.get("name"), "arguments": function.get("arguments") or {}}
    return f"<tool_call>\n{json.dumps(told, ensure_ascii=False)}\n</tool_call>"


def _usage(said: dict[str, Any]) -> TokenUsage | None:
    counts = [said.get("prompt_eval_count"), said.get("eval_count")]
    if counts == [None, None]:
        return None
    prompt, completion = (int(count or 0) for count in counts)
    return TokenUsage(prompt, completion)


def _durations(said: dict[str, Any]) -> Durations:
    return Durations(_seconds(said, "prompt_eval_duration"), _seconds(said, "eval_duration"))


def _seconds(said: dict[str, Any], name: str) -> float | None:
    nanoseconds = said.get(name)
    return None if nanoseconds is None else float(nanoseconds) / 1e9
