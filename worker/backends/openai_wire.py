"""The wire of servers with OpenAI's API: vLLM, SGLang, llama.cpp's, another Baton, OpenAI's own.

Messages go to `/chat/completions`, where the server's own template renders them, raw prompts to
`/completions`. Tools are told as texts, so that calls can be read here whatever the server.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import httpx

from common.grammar import GrammarSpec
from common.schemas import TokenUsage
from worker.backends.http_errors import check_status, read_json, refusal_of, translated_failures
from worker.backends.openai_dialects import DIALECTS, Dialect, dialect_of
from worker.backends.plain_messages import plain_messages
from worker.backends.sse_reader import read_events
from worker.backends.wire import Ask, Durations, Piece, Served, UpstreamFailure, UpstreamRefusal

DONE = "[DONE]"
_FINISH_REASONS = {"length": "length", "content_filter": "content_filter"}
"""All others are a stop: `tool_calls` too, for no tools were sent."""
_LEFT_OUT_WHEN_EMPTY = ("logit_bias", "stop_token_ids", "ignore_eos", "min_tokens")
_REFUSED_TYPES = ("invalid_request_error",)
MAX_LIST_BYTES = 4 << 20


class OpenAIWire:
    """See `worker.backends.wire.Wire` for the contract."""

    def parameters(self, dialect: str) -> frozenset[str]:
        """Source: Wire."""
        return DIALECTS[dialect].names

    async def probe(self, client: httpx.AsyncClient, base_url: str, model: str) -> Served:
        """List its models; see the contract."""
        status, body = await _get(client, f"{_root(base_url)}/models")
        if status in (404, 405):
            return Served()  # not every server lists them
        if status in (401, 403):
            raise UpstreamFailure("it refuses our key", is_denied=True)
        if status != 200:
            raise UpstreamFailure(f"it answered {status}", is_away=True)
        models = _models_of(body)
        lengths = {str(each["id"]): _context_length(each) for each in models}
        if model not in lengths:  # it may be an alias
            status, found = await _get(client, f"{_root(base_url)}/models/{quote(model)}")
            if status == 200:
                lengths[model] = _context_length(found if isinstance(found, dict) else {})
        return Served(lengths, dialect_of(models))

    async def stream(
        self, client: httpx.AsyncClient, base_url: str, ask: Ask
    ) -> AsyncGenerator[Piece]:
        """Ask with `stream`; see the contract."""
        is_chat = ask.prompt.messages is not None or not ask.prompt.raw
        path = "/chat/completions" if is_chat else "/completions"
        with translated_failures():
            async with client.stream("POST", _root(base_url) + path, json=body_of(ask)) as response:
                await check_status(response)
                async with aclosing(read_events(response.aiter_bytes())) as events:
                    async for data in events:
                        if data.strip() == DONE:
                            return
                        yield piece_of(data) if data else Piece()


def body_of(ask: Ask) -> dict[str, Any]:
    """The request's body.

    Raises:
        UpstreamRefusal: The server takes no such request.
    """
    dialect, sampling = DIALECTS[ask.dialect], ask.sampling
    is_greedy = sampling.temperature == 0 or sampling.top_p == 0
    is_chat = ask.prompt.messages is not None or not ask.prompt.raw
    body: dict[str, Any] = {
        "model": ask.model,
        **(
            {"messages": plain_messages(ask.prompt)}
            if is_chat
            else {"prompt": ask.prompt.text or ""}
        ),
        dialect.token_field if is_chat else "max_tokens": ask.max_tokens,
        "temperature": 0 if is_greedy else sampling.temperature,
        "top_p": 1 if is_greedy else sampling.top_p,  # some servers refuse 0
        "seed": ask.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # What a server takes is always told, for its own defaults are others than ours.
    for name, told in dialect.fields.items():
        body[told] = getattr(sampling, name)
    if "top_k" in body and not sampling.top_k:
        body["top_k"] = dialect.every_token
    for name in _LEFT_OUT_WHEN_EMPTY:
        if not body.get(name):
            body.pop(name, None)
    if "logit_bias" in body:
        body["logit_bias"] = {str(i): bias for i, bias in sampling.logit_bias}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.grammar is not None:
        if not (is_chat or dialect.formats_completions):
            raise UpstreamRefusal("response_format goes with chat messages alone.")
        body["response_format"] = response_format(sampling.grammar, dialect)
    if ask.prompt.template_kwargs:
        body["chat_template_kwargs"] = ask.prompt.template_kwargs
    return body


def response_format(grammar: GrammarSpec, dialect: Dialect) -> dict[str, Any]:
    """What the answer has to look like, in OpenAI's form."""
    if grammar.kind == "json_object":
        return {"type": "json_object"}
    schema = json.loads(grammar.text)
    if dialect.has_json_schema_inside:
        return {"type": "json_object", "schema": schema}
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def piece_of(data: str) -> Piece:
    """One event of an answer.

    Raises:
        UpstreamRefusal: It says that the request is at fault.
        UpstreamFailure: It says that something went wrong, or is nothing that such a server says.
    """
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise _error_of(chunk)
        choices = chunk.get("choices") or []
        choice = choices[0] if choices else {}
        told = choice.get("delta") or choice
        text = (told.get("content") if "delta" in choice else told.get("text")) or ""
        reason = choice.get("finish_reason")
        if not isinstance(text, str):
            raise TypeError
        return Piece(
            text=text,
            finish_reason=None if reason is None else _FINISH_REASONS.get(reason, "stop"),
            usage=_usage(chunk),
            cached_tokens=_cached_tokens(chunk),
            durations=_durations(chunk),
        )
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise UpstreamFailure("its answer cannot be read") from error


def _error_of(chunk: dict[str, Any]) -> Exception:
    found = chunk["error"]
    kind = found.get("type") if isinstance(found, dict) else None
    if kind in _REFUSED_TYPES:
        return refusal_of(chunk, 400)
    code = found.get("code") if isinstance(found, dict) else None
    return UpstreamFailure(f"its answer ended with the error {str(code or kind)[:60]}")


def _usage(chunk: dict[str, Any]) -> TokenUsage | None:
    usage = chunk.get("usage")
    if not usage:
        return None
    return TokenUsage(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))


def _cached_tokens(chunk: dict[str, Any]) -> int:
    details = (chunk.get("usage") or {}).get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def _durations(chunk: dict[str, Any]) -> Durations | None:
    """As llama.cpp's server tells them, in milliseconds."""
    timings = chunk.get("timings")
    if not timings:
        return None
    return Durations(float(timings["prompt_ms"]) / 1000, float(timings["predicted_ms"]) / 1000)


async def _get(client: httpx.AsyncClient, url: str) -> tuple[int, Any]:
    with translated_failures():
        async with client.stream("GET", url) as response:
            return response.status_code, await read_json(response, MAX_LIST_BYTES)


def _models_of(body: Any) -> list[dict[str, Any]]:
    try:
        return [each for each in body["data"] if isinstance(each["id"], str)]
    except (TypeError, KeyError) as error:
        raise UpstreamFailure("its list of models cannot be read", is_away=True) from error


def _context_length(model: dict[str, Any]) -> int | None:
    """By vLLM, SGLang and Baton, by llama.cpp, or not at all."""
    meta = model.get("meta")
    found = model.get("max_model_len")
    if not isinstance(found, int) and isinstance(meta, dict):
        found = meta.get("n_ctx") or meta.get("n_ctx_train")
    return found if isinstance(found, int) and found > 0 else None


def _root(base_url: str) -> str:
    """With `/v1` where nothing else was given: that is what is meant."""
    return base_url if httpx.URL(base_url).path.strip("/") else f"{base_url}/v1"
