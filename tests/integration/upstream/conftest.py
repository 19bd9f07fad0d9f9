"""Servers by script, and workers in front of them, on a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.upstream_worker import UpstreamWorker
from tests.scripted_upstream import Says, ScriptedUpstream

Serve = Callable[..., ScriptedUpstream]
Work = Callable[..., UpstreamWorker]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers with a script."""
    started: list[ScriptedUpstream] = []

    def start(*script: Says, **options: Any) -> ScriptedUpstream:
        started.append(ScriptedUpstream(*script, **options))
        return started[-1]

    yield start
    for upstream in started:
        upstream.close()


@pytest.fixture
def work(redis_url: str) -> Iterator[Work]:
    """Start workers whose model these servers run."""
    started: list[UpstreamWorker] = []

    def start(*upstreams: ScriptedUpstream, **options: Any) -> UpstreamWorker:
        started.append(UpstreamWorker(redis_url, *upstreams, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()
