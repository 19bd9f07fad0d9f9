"""What the container stack promises, read from its files; `make stack-test` runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from common.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ["Dockerfile.api", "Dockerfile.worker"]

# The stack decides these by itself; the worker needs no API key.
DECIDED = {"api_keys", "host", "port", "redis_url", "data_dir", "log_dir", "files_url"}
DECIDED |= {"scorers_dir"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    stack: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(stack["services"]) == {"redis", "api", "worker"}
    services: dict[str, Any] = stack["services"]
    return services


def instructions(dockerfile: str, name: str) -> list[str]:
    """The arguments of every instruction with this name, in order."""
    text = (DEPLOY / dockerfile).read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


def test_redis_cannot_be_reached_from_outside(services: dict[str, Any]) -> None:
    assert "ports" not in services["redis"]
    assert "network_mode" not in services["redis"]


def test_redis_keeps_its_data_and_evicts_nothing(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    for option in (
        "--appendonly yes",
        "--appendfsync always",
        "--maxmemory-policy noeviction",
        "--dir /data",
    ):
        assert option in command
    assert services["redis"]["volumes"] == ["redis:/data"]


def test_the_gateway_does_not_start_without_keys_of_your_own(services: dict[str, Any]) -> None:
    assert services["api"]["environment"]["API_KEYS"].startswith("${API_KEYS:?")


def test_the_gateway_is_published_at_the_port_of_the_settings(services: dict[str, Any]) -> None:
    assert services["api"]["ports"] == ["${PORT:-8000}:8000"]
    assert services["api"]["environment"]["HOST"] == "0.0.0.0"


@pytest.mark.parametrize("service", ["api", "worker"])
def test_every_setting_reaches_the_containers_as_it_is_outside(
    services: dict[str, Any], service: str
) -> None:
    environment = services[service]["environment"]
    handed_on = {name for name, value in environment.items() if value is None}
    handed_on -= {name for name in handed_on if name.startswith(("HF_", "AWS_"))}
    assert handed_on == {name.upper() for name in set(Settings.model_fields) - DECIDED}


def test_there_can_be_several_workers(services: dict[str, Any]) -> None:
    assert not {"container_name", "ports", "hostname"} & set(services["worker"])


def test_every_service_restarts_and_is_watched_and_has_time_to_stop(
    services: dict[str, Any],
) -> None:
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]
        assert service["stop_grace_period"]


def test_gateway_and_worker_wait_for_redis(services: dict[str, Any]) -> None:
    for name in ("api", "worker"):
        assert services[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_logs_scorers_and_downloaded_models_outlive_their_containers(
    services: dict[str, Any],
) -> None:
    assert set(services["api"]["volumes"]) == {"logs:/var/log/baton", "files:/var/lib/baton"}
    assert set(services["worker"]["volumes"]) == {
        "logs:/var/log/baton",
        "models:/var/cache/huggingface",
        "scorers:/var/lib/baton/scorers",
    }


def test_containers_get_more_time_to_stop_than_their_processes_take(
    services: dict[str, Any],
) -> None:
    shutdown_s = Settings.model_fields["shutdown_s"].default
    for name in ("api", "worker"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > shutdown_s


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_an_image_runs_as_a_user_who_is_not_root(dockerfile: str) -> None:
    assert instructions(dockerfile, "USER") == ["10001"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_builder_understands_the_dockerfiles(dockerfile: str) -> None:
    text = (DEPLOY / dockerfile).read_text()
    assert "--mount" not in text
    assert "<<" not in text
    assert "# syntax" not in text


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_a_change_of_the_code_installs_no_dependency_again(dockerfile: str) -> None:
    text = (DEPLOY / dockerfile).read_text()
    final = text[text.rindex("\nFROM ") :]
    assert final.index("/opt/venv /opt/venv") < final.index("--from=code")
    assert "pip install" not in final[final.index("--from=code") :]


def test_the_gateways_image_has_nothing_of_the_model_stack() -> None:
    text = (DEPLOY / "Dockerfile.api").read_text().lower()
    for name in ("torch", "transformers", "worker"):
        assert name not in text


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_an_image_copies_is_let_through_to_the_builder(dockerfile: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for arguments in instructions(dockerfile, "COPY"):
        *sources, _ = arguments.split()
        if not sources[0].startswith("--from="):
            assert {source.rstrip("/") for source in sources} <= let_through


def test_the_gpus_are_added_to_the_worker_alone() -> None:
    override = yaml.safe_load((DEPLOY / "compose.gpu.yml").read_text())
    assert set(override["services"]) == {"worker"}
    reserved = override["services"]["worker"]["deploy"]["resources"]["reservations"]
    assert [device["capabilities"] for device in reserved["devices"]] == [["gpu"]]
