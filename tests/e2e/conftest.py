"""One service for the tests that only use it; those that break one start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A ready service with the bundled model."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


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
