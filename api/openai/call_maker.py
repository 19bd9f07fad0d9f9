"""From a parsed body to the call that it asks for."""

from __future__ import annotations

from contextlib import suppress

from api.fleet_poller import FleetPoller
from api.openai.calls import Call, ChatCall, CompletionCall, family_of
from api.openai.chat_request import ChatRequest
from api.openai.completion_request import CompletionRequest
from api.openai.embeddings_call import EmbeddingsCall
from api.openai.embeddings_request import EmbeddingsRequest
from api.tokenizers import Tokenizers
from common.errors import ModelNotFoundError
from common.model_catalog import ModelCatalog
from common.settings import Settings
from common.tool_calls.families import Family


class CallMaker:
    """Makes calls, by what is known of their models."""

    def __init__(
        self,
        settings: Settings,
        catalog: ModelCatalog,
        poller: FleetPoller,
        tokenizers: Tokenizers,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._poller = poller
        self._tokenizers = tokenizers

    async def of(self, body: ChatRequest | CompletionRequest | EmbeddingsRequest) -> Call:
        """The call that a body asks for.

        Raises:
            InvalidRequestError: Something is wrong with the messages or the tools.
            RedisUnavailableError: Redis is away.
        """
        if isinstance(body, CompletionRequest):
            return CompletionCall(body, self._settings)
        if isinstance(body, EmbeddingsRequest):
            return EmbeddingsCall(body, self._settings)
        family = await self._family_of(body.model) if body.tools else Family.GENERIC
        return ChatCall(body, self._settings, family)

    async def _family_of(self, model: str | None) -> Family:
        # Whether there is such a model is for the submission to say: a repeat may do without.
        with suppress(ModelNotFoundError):
            card = await self._poller.card(self._catalog.resolve(model).model)
            return await family_of(card, self._tokenizers)
        return Family.GENERIC
