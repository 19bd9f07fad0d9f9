"""`POST /v1/embeddings`: what it asks for, and how it is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from api.deltas import ChoiceDelta
from api.job_request import JobRequest
from api.openai.answer import Head
from api.openai.embeddings_request import EmbeddingsRequest
from api.openai.fields import CallBody
from api.tokenizers import Tokenizers
from common.errors import InternalError, InvalidRequestError
from common.model_card import ModelCard
from common.sampling import SamplingSpec
from common.schemas import JobRecord
from common.settings import Settings


class EmbeddingsCall:
    """One request; all of its inputs are one job."""

    id_prefix = "embd-"

    def __init__(self, body: EmbeddingsRequest, settings: Settings) -> None:
        self.body: CallBody = body
        limit_s = settings.task_time_limit if body.timeout is None else body.timeout
        self.job = JobRequest(
            prompts=(),
            sampling=SamplingSpec(max_tokens=0, time_limit_s=limit_s, seed=0),
            is_seeded=True,
            model=body.model,
            job_class=body.priority or "normal",
            user_id=body.user,
            inputs=body.inputs,
            dimensions=body.dimensions,
        )
        self._is_packed = body.encoding_format == "base64"
        self._dimensions = body.dimensions

    async def answer(
        self,
        head: Head,
        card: ModelCard | None,
        tokenizers: Tokenizers,
        records: Sequence[JobRecord],
    ) -> EmbeddingsAnswer:
        """The vectors of the ended job.

        Raises:
            InternalError: It has none.
            InvalidRequestError: They do not have the size that was asked for.
        """
        [record] = records
        found = record.embeddings
        if found is None:
            raise InternalError("The job has ended without its embeddings.")
        if self._dimensions not in (None, found.size):  # nobody knew when it was accepted
            raise InvalidRequestError(
                f"dimensions must be {found.size}, the size of the embeddings of '{head.model}', "
                f"or be left out; got {self._dimensions}.",
                param="dimensions",
            )
        # There may be millions of numbers, and others wait for the event loop.
        unpack = found.base64s if self._is_packed else found.floats
        return EmbeddingsAnswer(head.model, await asyncio.to_thread(unpack))


class EmbeddingsAnswer:
    """The vectors, as numbers or packed. Source: Answer."""

    def __init__(self, model: str, vectors: Sequence[list[float] | str]) -> None:
        self._model = model
        self._vectors = vectors

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        num_tokens = sum(record.prompt_tokens or 0 for record in records)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(self._vectors)
            ],
            "model": self._model,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    def opening(self) -> list[dict[str, Any]]:
        """Source: Answer."""
        raise NotImplementedError("embeddings are not streamed")

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """Source: Answer."""
        raise NotImplementedError("embeddings are not streamed")

    def closing(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """Source: Answer."""
        raise NotImplementedError("embeddings are not streamed")


def rendered(body: dict[str, Any]) -> bytes:
    """The answer as JSON, for a thread: vector by vector, so that others get their turn."""
    data = ",".join(_dump(each) for each in body["data"])
    return _dump({**body, "data": []}).replace('"data":[]', f'"data":[{data}]', 1).encode()


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
