"""The wire of Ollama's own API: `/api/chat` for messages, `/api/generate` for raw prompts.

Answers are lines of JSON. Tools are told as texts, so that calls can be read here whatever the
model. What a model thinks before its answer comes apart from it, and is put back in front of it in
`<think>` tags, as the model wrote it. A prompt that does not fit is refused (`truncate`), and an
answer ends where the context does (`shift`), instead of losing what came first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from common.model_entries import ollama_id
from worker.backends.http_errors import check_status, read_json, translated_failures
from worker.backends.ollama_answer import AnswerReader, error_of
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
from worker.backends.ollama_request import request_of
from worker.backends.sse_reader import read_lines
from worker.backends.wire import Ask, Piece, Served, UpstreamFailure

NO_PENALTIES = "no-penalties"
"""The dialect of servers that do not honour penalties with every model."""
MAX_ANSWER_BYTES = 4 << 20
LOOK_S = 2.0
"""What a server tells of itself is asked for again after so long; all its models share it."""

_PENALTIES = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty"})
_HONOURED = frozenset({"top_k", "min_p", "json_object", "json_schema", "template_kwargs"})

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
            try:
                generates = listed.generates
                if generates is None:
                    generates = (await self._show(client, base_url, listed)).generates
            except UpstreamFailure as failure:
                if failure.is_away:
                    raise
                log.warning("Ollama's model %s is not offered: %s", listed.name, failure)
            else:
                found += [listed.id] if generates else []
        return found

    async def stream(
        self, client: httpx.AsyncClient, base_url: str, ask: Ask
    ) -> AsyncGenerator[Piece]:
        """Ask with `stream`; see the contract."""
        _, shown = self._shown.get((base_url, ollama_id(ask.model)), ("", Shown()))
        path, body = request_of(ask, shown.stop, self._num_ctx)
        reader = AnswerReader(shows_thoughts=body.get("think") is not False)
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


async def _ask(client: httpx.AsyncClient, method: str, url: str, body: Any = None) -> Any:
    with translated_failures():
        async with client.stream(method, url, json=body) as response:
            status = response.status_code
            if status in (401, 403):
                raise UpstreamFailure("it refuses our key", is_denied=True)
            if status != 200:
                # To a question about one model it may have no answer, and be well.
                raise UpstreamFailure(f"it answered {status}", is_away=body is None)
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
        raise error_of(await read_json(response), status)
    await check_status(response)


def _not_pulled(model: str) -> UpstreamFailure:
    return UpstreamFailure(
        f"it has no model {model}; `ollama pull {model}` gets it", is_denied=True, is_missing=True
    )


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
