"""The two calls that generate: what each asks for, and how it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from api.job_request import JobRequest
from api.openai.answer import Answer, Head
from api.openai.chat_answer import ChatAnswer
from api.openai.chat_request import ChatRequest
from api.openai.completion_answer import CompletionAnswer, Echo
from api.openai.completion_request import CompletionRequest
from api.openai.fields import CallBody
from api.openai.job_requests import chat_job, completion_job
from api.token_texts import TokenTexts
from api.tokenizers import Tokenizers
from common.errors import InternalError
from common.model_card import ModelCard
from common.schemas import JobRecord, Prompt
from common.settings import Settings
from common.tool_calls.families import Family

TAG = "<tool_call>"


class Call(Protocol):
    """One request that is answered by jobs.

    Attributes:
        body: As it came.
        job: What is submitted for it.
        id_prefix: Of the answer's id.
    """

    body: CallBody
    job: JobRequest
    id_prefix: str

    async def answer(
        self,
        head: Head,
        card: ModelCard | None,
        tokenizers: Tokenizers,
        records: Sequence[JobRecord],
    ) -> Answer:
        """The form of the answer, once the jobs have begun.

        Raises:
            RedisUnavailableError: The tokenizer is not here yet, and Redis is away.
        """


class ChatCall:
    """`POST /v1/chat/completions`.

    Args:
        family: How the model writes its calls of tools.
    """

    id_prefix = "chatcmpl-"

    def __init__(self, body: ChatRequest, settings: Settings, family: Family) -> None:
        self.body: CallBody = body
        self.job = chat_job(body, settings, family)
        [prompt] = self.job.prompts
        self._has_tools = prompt.tools is not None

    async def answer(
        self,
        head: Head,
        card: ModelCard | None,
        tokenizers: Tokenizers,
        records: Sequence[JobRecord],
    ) -> Answer:
        """Source: Call."""
        sampling = self.job.sampling
        texts = None if sampling.logprobs is None else await _texts(card, tokenizers)
        family = await self._family_of(records[0], card, tokenizers)
        return ChatAnswer(head, sampling, texts, family)

    async def _family_of(
        self, record: JobRecord, card: ModelCard | None, tokenizers: Tokenizers
    ) -> Family | None:
        """How the calls in the answer are written; None where there can be none."""
        grammar = record.sampling.grammar
        if not self._has_tools:
            return None
        if grammar is not None and TAG in grammar.text:
            # Forced, perhaps before it was known how this model would write them itself.
            return Family.GENERIC
        return await family_of(card, tokenizers)


class CompletionCall:
    """`POST /v1/completions`."""

    id_prefix = "cmpl-"

    def __init__(self, body: CompletionRequest, settings: Settings) -> None:
        self.body: CallBody = body
        self.job = completion_job(body, settings)
        self._echoes = bool(body.echo)

    async def answer(
        self,
        head: Head,
        card: ModelCard | None,
        tokenizers: Tokenizers,
        records: Sequence[JobRecord],
    ) -> Answer:
        """Source: Call."""
        sampling = self.job.sampling
        texts = None if sampling.logprobs is None else await _texts(card, tokenizers)
        pairs = zip(self.job.prompts, records, strict=True)
        echoes = [await self._echo(card, tokenizers, *pair) for pair in pairs]
        return CompletionAnswer(head, sampling, texts, echoes)

    async def _echo(
        self, card: ModelCard | None, tokenizers: Tokenizers, prompt: Prompt, record: JobRecord
    ) -> Echo | None:
        if not self._echoes:
            return None
        if card is not None and not card.has_tokenizer:
            return Echo(prompt.text or "", ())
        texts = await _texts(card, tokenizers)
        ids = record.prompt_ids
        if ids is None:  # the job was accepted before its model was known
            assert card is not None
            ids = await tokenizers.encode(card, prompt)
        return Echo(texts.decode(ids) if prompt.text is None else prompt.text, ids)


async def family_of(card: ModelCard | None, tokenizers: Tokenizers) -> Family:
    """How a model writes its calls of tools; of one that no worker has announced, our own way."""
    return Family.GENERIC if card is None else await tokenizers.family(card)


async def _texts(card: ModelCard | None, tokenizers: Tokenizers) -> TokenTexts:
    if card is None:
        raise InternalError("The model's tokenizer is not known.")
    return await tokenizers.texts(card)
