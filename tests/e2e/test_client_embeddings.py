"""Embeddings through clients of others, unmodified: the vectors are those that plain HTTP gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.other_clients import SCRIPTS, Clients, last_line, needs_node, needs_python
from tests.e2e.service import Service

MODELS = [{"id": "my-embedder", "source": "baton-toy", "kind": "embed"}]
# Words whose ids in OpenAI's own tokenizer are ids of the bundled model too.
TEXTS = ["A time for all of them", "this is one of the best"]


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that makes embeddings."""
    service = Service(tmp_path_factory.mktemp("embedding"), MODELS=json.dumps(MODELS))
    service.start()
    try:
        service.wait_for("Model my-embedder is ready on")
        yield service
    finally:
        service.stop()


@pytest.fixture
def clients(embedding: Service, tmp_path: Path) -> Clients:
    return Clients(embedding, tmp_path, TEXTS=json.dumps(TEXTS))


def assert_are_those_of_plain_http(
    found: list[list[list[float]]], texts: list[Any], service: Service
) -> int:
    """Each answer has the vectors of all inputs; the tokens that these have."""
    with service.http() as http:
        body = {"model": "my-embedder", "input": texts}
        answer = http.post("/v1/embeddings", json=body).json()
    expected = [each["embedding"] for each in answer["data"]]
    for vectors in found:
        assert len(vectors) == len(expected)
        for vector, other in zip(vectors, expected, strict=True):
            assert vector == pytest.approx(other, abs=1e-4)
    return int(answer["usage"]["prompt_tokens"])


@needs_node
def test_openais_client_for_node_unpacks_the_embeddings(clients: Clients) -> None:
    found = last_line(clients.run_node((SCRIPTS / "node_embeddings.js").read_text()))
    tokens = assert_are_those_of_plain_http(found["vectors"], TEXTS, clients.service)
    assert found["usage"] == tokens


@needs_python
def test_litellm_gets_embeddings(clients: Clients) -> None:
    found = last_line(clients.run_python((SCRIPTS / "litellm_embeddings.py").read_text()))
    tokens = assert_are_those_of_plain_http(found["vectors"], TEXTS, clients.service)
    assert found["usage"] == tokens


@needs_python
def test_langchain_gets_embeddings_by_token_ids_and_by_texts(clients: Clients) -> None:
    found = last_line(clients.run_python((SCRIPTS / "langchain_embeddings.py").read_text()))
    assert_are_those_of_plain_http(found["vectors"], TEXTS, clients.service)
    assert_are_those_of_plain_http(found["of_ids"], found["ids"], clients.service)
