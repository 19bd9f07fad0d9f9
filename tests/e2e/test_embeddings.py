"""One checkpoint as a model that generates and as one that makes embeddings; OpenAI's client."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai as sdk
import pytest
from openai import OpenAI

from tests.e2e.service import KEY, Service

MODELS = [
    {"id": "toy", "source": "baton-toy"},
    {"id": "toy-embed", "source": "baton-toy", "kind": "embed"},
]
TEXTS = [
    "Tom has a little dog.",
    "Tom has a small dog.",
    "The soup is in the blue pot.",
]
LARGE = [f"Once upon a time there were {n} dogs. " * 12 for n in range(400)]


def close(left: list[float], right: list[float]) -> bool:
    return all(abs(a - b) < 1e-4 for a, b in zip(left, right, strict=True))


def test_embeddings_beside_answers_and_through_the_death_of_the_worker(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(MODELS=json.dumps(MODELS), KV_CACHE_GIB=0.2)
    service.wait_for("Model toy-embed is ready on")
    with OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=300) as client:
        plain = client.embeddings.create(model="toy-embed", input=TEXTS, encoding_format="float")
        vectors = [each.embedding for each in plain.data]
        packed = client.embeddings.create(model="toy-embed", input=TEXTS)
        assert all(close(v, e.embedding) for v, e in zip(vectors, packed.data, strict=True))
        assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-4) for vector in vectors)
        assert math.dist(vectors[0], vectors[1]) < math.dist(vectors[0], vectors[2])
        chat = client.completions.create(model="toy", prompt=TEXTS[0], max_tokens=5)
        assert chat.choices[0].text
        with pytest.raises(sdk.BadRequestError, match="makes embeddings"):
            client.completions.create(model="toy-embed", prompt=TEXTS[0])

        with service.http() as http, ThreadPoolExecutor(1) as threads:
            asking = threads.submit(client.embeddings.create, model="toy-embed", input=LARGE)
            while not http.get("/v1/engine/stats").json()["active_requests"]:
                assert not asking.done(), "it was answered before the worker could die"
            [worker] = service.pids("worker.main")
            os.kill(worker, signal.SIGKILL)
            found = [each.embedding for each in asking.result().data]
        assert len(found) == len(LARGE)
        for index in (0, -1):
            again = client.embeddings.create(model="toy-embed", input=LARGE[index])
            assert close(found[index], again.data[0].embedding)
        with service.http() as http:
            while http.get("/v1/engine/stats").json()["requests"]["resumed"] != 1:
                assert service.process.poll() is None  # the gateway looks once a second
