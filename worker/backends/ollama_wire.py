"""The wire of Ollama's own API: `/api/chat` for messages, `/api/generate` for raw prompts.

Answers are lines of JSON. Tools are told as texts, so that calls can be read here whatever the
model. What a model thinks before its answer comes apart from it, and is put back in front of it in
`<think>` tags, as the model wrote it. A prompt that does not fit is refused (`truncate`), and an
answer ends where the context does (`shift`), instead of losing what came first.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from common.grammar import GrammarSpec
from common.model_entries import ollama_id
from common.schemas import Message, TokenUsage
from common.tool_calls.system_text import as_texts
from worker.backends.http_errors import check_status, read_json, refusal_of, translated_failures
from worker.backends.ollama_models import (
    HONOURS_PENALTIES,
    OLDEST,
    UNKNOWN,
    Listed,
    Shown,
    Version,
    lengths_of,
    listed_of,
    shown_of,
    version_of,
)
from worker.backends.sse_reader import read_lines
from worker.backends.wire import Ask, Durations, Piece, Served, UpstreamFailure, UpstreamRefusal

NO_PENALTIES = "no-penalties"
"""The dialect of servers that do not honour penalties with every model."""
MAX_ANSWER_BYTES = 4 << 20
LOOK_S = 2.0
"""What a server tells of itself is asked for again after so long; all its models share it."""
NUM_REPEATS = 30
"""Ollama ends an answer, without a word, that has the same text so often in a row."""
LONG_LOAD_S = 1.0

_PENALTIES = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty"})
_HONOURED = frozenset({"top_k", "min_p", "json_object", "json_schema", "template_kwargs"})
_FINISH_REASONS = {"stop": "stop", "length": "length", "": "stop"}
_ADDRESS = re.compile(r"\w+://\S+")
_MAX_ERROR_CHARS = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a server told at one time: its models and the lengths of the loaded ones, by id."""

    at_s: float
    version: Version
    listed: Mapping[str, Listed]
    lengths: Mapping[str, int]


class OllamaWire:
    """See `worker.backends.wire.Wire` for the contract. One may be shared by several threads.

    Args:
        num_ctx: Tokens of context to ask for; None: as the server is set.
    """

    def __init__(self, num_ctx: int | None = None) -> None:
        self._num_ctx = num_ctx
        self._looks: dict[str, _Look] = {}
        self._shown: dict[tuple[str, str], tuple[str, Shown]] = {}

    def parameters(self, dialect: str) -> frozenset[str]:
        """Source: Wire."""
        return _HONOURED if dialect == NO_PENALTIES else _HONOURED | _PENALTIES

    async def probe(self, client: httpx.AsyncClient, base_url: str, model: str) -> Served:
        """Look at its list of models; see the contract."""
        look = await self._look(client, base_url)
        if UNKNOWN != look.version < OLDEST:
            raise UpstreamFailure(
                f"it is Ollama {_dotted(look.version)}, which cuts long prompts and does not say "
                f"so; {_dotted(OLDEST)} or newer is needed",
                is_denied=True,
            )
        listed = look.listed.get(ollama_id(model))
        if listed is None:
            raise _not_pulled(model)
        shown = await self._show(client, base_url, listed)
        if not shown.generates:
            raise UpstreamFailure(
                f"its model {model} does not generate text", is_denied=True, is_missing=True
            )
        length = shown.context_length(self._num_ctx, look.lengths.get(listed.id))
        has_penalties = look.version == UNKNOWN or look.version >= HONOURS_PENALTIES
        return Served({model: length}, "" if has_penalties else NO_PENALTIES)

    async def models(self, client: httpx.AsyncClient, base_url: str) -> list[str]:
        """The ids of its models that generate text.

        Raises:
            UpstreamFailure: It is away, ill, or refuses our key.
        """
        found = []
        for listed in (await self._look(client, base_url)).listed.values():
            generates = listed.generates
            if generates is None:
                generates = (await self._show(client, base_url, listed)).generates
            if generates:
                found.append(listed.id)
        return found

    async def stream(
        self, client: httpx.AsyncClient, base_url: str, ask: Ask
    ) -> AsyncGenerator[Piece]:
        """Ask with `stream`; see the contract."""
        _, shown = self._shown.get((base_url, ollama_id(ask.model)), ("", Shown()))
        path, body = request_of(ask, shown.stop, self._num_ctx)
        reader = AnswerReader(shows_thoughts="think" not in body)
        with translated_failures():
            async with client.stream("POST", base_url + path, json=body) as response:
                await _check(response, ask.model)
                async with aclosing(read_lines(response.aiter_bytes())) as lines:
                    async for line in lines:
                        if line.strip():
                            yield reader.piece_of(line)
        if reader.is_cut_for_repeats:
            yield Piece(finish_reason="length")

    async def _look(self, client: httpx.AsyncClient, base_url: str) -> _Look:
        look = self._looks.get(base_url)
        if look is None or time.monotonic() - look.at_s > LOOK_S:
            version = version_of(await _ask(client, "GET", f"{base_url}/api/version"))
            listed = listed_of(await _ask(client, "GET", f"{base_url}/api/tags"))
            lengths = lengths_of(await _ask(client, "GET", f"{base_url}/api/ps"))
            by_id = {each.id: each for each in listed}
            look = self._looks[base_url] = _Look(time.monotonic(), version, by_id, lengths)
        return look

    async def _show(self, client: httpx.AsyncClient, base_url: str, listed: Listed) -> Shown:
        digest, shown = self._shown.get((base_url, listed.id), (None, Shown()))
        if digest != listed.digest:
            url = f"{base_url}/api/show"
            shown = shown_of(await _ask(client, "POST", url, {"model": listed.name}))
            self._shown[base_url, listed.id] = listed.digest, shown
        return shown


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
                raise _error_of(said)
            message = said.get("message") or said
            thought = str(message.get("thinking") or "")
            text = str(message.get("content") or message.get("response") or "")
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
    return "/api/chat", body | {"messages": _messages(ask)}


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


def _messages(ask: Ask) -> list[Message]:
    prompt = ask.prompt
    if prompt.messages is None:
        return [{"role": "user", "content": prompt.text or ""}]
    return as_texts(prompt.messages, prompt.tools, takes_system=True)


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


async def _ask(client: httpx.AsyncClient, method: str, url: str, body: Any = None) -> Any:
    with translated_failures():
        async with client.stream(method, url, json=body) as response:
            status = response.status_code
            if status in (401, 403):
                raise UpstreamFailure("it refuses our key", is_denied=True)
            if status != 200:
                raise UpstreamFailure(f"it answered {status}", is_away=True)
            return await read_json(response, MAX_ANSWER_BYTES)


async def _check(response: httpx.Response, model: str) -> None:
    """Raise the error that a response's status stands for.

    Raises:
        UpstreamRefusal: The request is at fault.
        UpstreamFailure: The server is, or it has no such model.
    """
    status = response.status_code
    if status == 404:
        raise _not_pulled(model)
    if status in (400, 413, 422, 500):
        raise _error_of(await read_json(response), status)
    await check_status(response)


def _error_of(said: Any, status: int = 500) -> UpstreamRefusal | UpstreamFailure:
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


def _not_pulled(model: str) -> UpstreamFailure:
    return UpstreamFailure(
        f"it has no model {model}; `ollama pull {model}` gets it", is_denied=True, is_missing=True
    )


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


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
