"""The API's documentation names the statuses that every route of a kind can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.main import create_app
from common.settings import Settings

OPEN = {"/", "/health", "/health/live", "/health/ready", "/ready", "/metrics"}
FROM_MEMORY = {"/models", "/v1/models", "/v1/models/{model}"}
"""Answered as well where Redis is away."""


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("data")
    url = "redis://127.0.0.1:1/0"
    schema = create_app(Settings(_env_file=None, redis_url=url, data_dir=folder)).openapi()
    return {
        f"{method} {path}": (path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if path not in OPEN
    }


def expected(path: str, operation: dict[str, Any]) -> set[str]:
    statuses = {"401", "429"}
    if path not in FROM_MEMORY:
        statuses.add("503")
    if operation.get("requestBody"):
        statuses |= {"400", "413"}
    if any(each["in"] in ("query", "header") for each in operation.get("parameters", ())):
        statuses.add("400")
    if "{" in path:
        statuses.add("404")
    return statuses


def test_no_route_leaves_one_out(operations: dict[str, Any]) -> None:
    missing = {
        name: sorted(expected(path, operation) - set(operation["responses"]))
        for name, (path, operation) in operations.items()
    }
    assert len(operations) > 30
    assert {name: statuses for name, statuses in missing.items() if statuses} == {}


def test_errors_are_documented_as_json(operations: dict[str, Any]) -> None:
    for name, (_, operation) in operations.items():
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert "application/json" in answer["content"], (name, status)
