"""Services for the tests that only use one; those that break one start their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service
from tests.tiny_model import write_tiny_model


@contextmanager
def _running(folder: Path, **settings: Any) -> Iterator[Service]:
    """A service whose first model is loaded."""
    service = Service(folder, **settings)
    service.start()
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A ready service with the bundled model."""
    with _running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="session")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One with the bundled model as `llama3`, which is `llada-8b` too."""
    model = {"id": "llama3", "source": "baton-toy", "aliases": ["llada-8b"]}
    settings = {"MODELS": json.dumps([model]), "KV_CACHE_GIB": 0.2}
    with _running(tmp_path_factory.mktemp("llama3"), **settings) as service:
        yield service


def two_models(folder: Path) -> list[dict[str, Any]]:
    """The bundled model and a tiny one, under the names of well-known ones."""
    return [
        {
            "id": "llama-7b",
            "name": "Llama 7B",
            "description": "7B parameter Llama model",
            "format": "GGUF",
            "source": "baton-toy",
        },
        {
            "id": "mistral-7b",
            "name": "Mistral 7B",
            "description": "Mistral 7B instruction model",
            "format": "GGUF",
            "path": str(write_tiny_model(folder / "tiny")),
            "aliases": ["mistral"],
            "max_batch_size": 2,
        },
    ]


@pytest.fixture(scope="session")
def llama_and_mistral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One whose one worker has both models loaded."""
    folder = tmp_path_factory.mktemp("two-models")
    settings = {"MODELS": json.dumps(two_models(folder)), "KV_CACHE_GIB": 0.2}
    with _running(folder, **settings) as service:
        service.wait_for("Model mistral-7b is ready on")
        yield service


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start a service of one's own, with settings."""
    started: list[Service] = []

    def start(**settings: Any) -> Service:
        service = Service(tmp_path, **settings)
        started.append(service)
        service.start()
        return service

    yield start
    for service in started:
        service.stop()
