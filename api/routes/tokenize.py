"""Texts to tokens and back, by the gateway itself: no job, no worker, no weights."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.answers import errors
from api.dependencies import GatewayDep, ReaderId
from api.gateway import Gateway
from api.json_route import JsonRoute
from api.tokenize_schemas import (
    BatchTokenizeRequest,
    BatchTokensAnswer,
    DetokenizeRequest,
    TextAnswer,
    TokenizeRequest,
    TokensAnswer,
)
from common.errors import InvalidRequestError, ModelNotAnnouncedError
from common.fleet import Fleet, ModelState
from common.model_card import ModelCard
from common.model_catalog import CatalogEntry

RETRY_S = 5.0
_NOT_TRIED = " Another worker has not tried yet, and will when a task comes."

router = APIRouter(tags=["Tokens"], route_class=JsonRoute)
_ERRORS = errors(400, 401, 404, 413, 429, 503)


@router.post(
    "/tokenize",
    operation_id="tokenize",
    response_model=TokensAnswer,
    summary="Cut a text into tokens",
    responses=_ERRORS,
)
async def tokenize(gateway: GatewayDep, key_id: ReaderId, body: TokenizeRequest) -> JSONResponse:
    """By the tokenizer of the model: the ids that it would read."""
    card = await _card(gateway, body.model_name)
    [view] = await _encoded(gateway, card, [body.text], body.add_special_tokens)
    return JSONResponse(view)


@router.post(
    "/batch/tokenize",
    operation_id="tokenize_batch",
    response_model=BatchTokensAnswer,
    summary="Cut several texts into tokens",
    responses=_ERRORS,
)
async def batch_tokenize(
    gateway: GatewayDep, key_id: ReaderId, body: BatchTokenizeRequest
) -> JSONResponse:
    """One result for each text, in their order."""
    card = await _card(gateway, body.model_name)
    views = await _encoded(gateway, card, body.texts, body.add_special_tokens)
    return JSONResponse({"results": views})


@router.post(
    "/detokenize",
    operation_id="detokenize",
    response_model=TextAnswer,
    summary="Put tokens together",
    responses=_ERRORS,
)
async def detokenize(
    gateway: GatewayDep, key_id: ReaderId, body: DetokenizeRequest
) -> JSONResponse:
    """Bytes that are no UTF-8, as of a character that was cut, become U+FFFD."""
    card = await _card(gateway, body.model_name)
    for index, token_id in enumerate(body.token_ids):
        if token_id >= card.vocab_size:
            raise InvalidRequestError(
                f"token_ids must be tokens of '{card.model}', from 0 to {card.vocab_size - 1}; "
                f"got {token_id} at {index}.",
                param="token_ids",
            )
    text = await gateway.tokenizers.decode(
        card, body.token_ids, skip_special_tokens=body.skip_special_tokens
    )
    return JSONResponse({"text": text})


async def _card(gateway: Gateway, name: str | None) -> ModelCard:
    entry = gateway.catalog.resolve(name)
    # A card outlives its model's being unloaded, and its worker.
    card = await gateway.poller.card(entry.model)
    if card is None:
        raise ModelNotAnnouncedError(
            _why_not_known(gateway.poller.fleet, entry), retry_after_s=RETRY_S
        )
    if not card.has_tokenizer:
        raise InvalidRequestError(
            f"Another server runs '{entry.model}' and keeps its tokenizer to itself; tokens are "
            "told of models that this service runs itself.",
            param="model",
        )
    return card


def _why_not_known(fleet: Fleet | None, entry: CatalogEntry) -> str:
    workers = () if fleet is None else fleet.workers
    served = [
        (worker, worker.models[entry.model]) for worker in workers if entry.model in worker.models
    ]
    states = {each.state for _, each in served}
    if "error" in states and not states & {"ready", "loading"}:
        worker, reason = next((w, each.reason) for w, each in served if each.state == "error")
        return (
            f"'{entry.model}' cannot be loaded, so its tokenizer is not known: "
            f"{reason or 'no reason is told'} (worker "
            f"{worker.worker_id} on {worker.host}; its log says more)."
            + (_NOT_TRIED if "unloaded" in states else "")
        )
    return (
        f"No worker has loaded '{entry.model}' yet, so its tokenizer is not known: "
        f"{_what_to_do(states, entry)}."
    )


def _what_to_do(states: Collection[ModelState], entry: CatalogEntry) -> str:
    if "ready" in states or "loading" in states:
        return "one is loading it, try again"
    if "unloaded" in states:
        ask = "/v1/embeddings" if entry.kind == "embed" else "/generate, of one token,"
        return f"one will for its first request, so send it one to {ask} and try again"
    return "start a worker that serves it"


async def _encoded(
    gateway: Gateway, card: ModelCard, texts: list[str], add_special_tokens: bool
) -> list[dict[str, object]]:
    ids = await gateway.tokenizers.encode_texts(card, texts, add_special_tokens=add_special_tokens)
    return [{"token_ids": each, "num_tokens": len(each)} for each in ids]
