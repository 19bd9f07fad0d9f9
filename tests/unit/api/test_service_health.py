"""What `/health` says is wrong, by a snapshot that the test writes."""

from __future__ import annotations

from typing import Any

import pytest

from api.service_health import MOST_REASON_CHARS, health_of
from common.fleet import Fleet, ServedModel, WorkerInfo
from common.settings import Settings

SETTINGS = Settings(_env_file=None, models='[{"id": "m", "source": "m"}]')


def fleet(queued: dict[str, int], found: Any = None, **models: ServedModel) -> Fleet:
    worker = WorkerInfo("w", "host", 1, "0", "cpu", 8, 0, models, found=found)
    return Fleet((worker,) if models else (), queued, 0, {}, 0, None)


def broken(reason: str) -> ServedModel:
    return ServedModel("error", reason)


def test_what_needs_a_person_comes_first() -> None:
    seen = fleet({"x": 3}, b=ServedModel("loading"), c=broken("no such file"))
    health = health_of(seen, ["a", "b", "c"], SETTINGS)
    assert health.reason == (
        "Model 'c': no such file; 3 tasks wait for 'x', which is not configured (MODELS); "
        "Model 'a': No worker serves the model; Model 'b': The model is loading."
    )


def test_without_a_worker_what_waits_for_no_model_is_told_as_well() -> None:
    health = health_of(fleet({"m": 1, "x": 1}), ["m"], SETTINGS)
    assert (health.status, health.reason) == (
        "degraded",
        "No worker is running; 1 task waits for 'x', which is not configured (MODELS).",
    )


def test_what_waits_for_no_model_does_not_make_broken_models_less_hopeless() -> None:
    health = health_of(fleet({"x": 1}, m=broken("no such file")), ["m"], SETTINGS)
    assert health.status == "unhealthy"


def test_lines_that_are_empty_are_no_problem() -> None:
    assert health_of(fleet({"x": 0}, m=ServedModel("ready")), ["m"], SETTINGS).reason is None


def test_the_reason_is_bounded_and_says_how_much_it_leaves_out() -> None:
    models = {f"m{number:03}": broken("no such file") for number in range(100)}
    reason = health_of(fleet({}, **models), list(models), SETTINGS).reason
    assert reason is not None
    shown = reason.count("no such file")
    assert reason.endswith(f"; and {100 - shown} more.")
    assert MOST_REASON_CHARS / 2 < len(reason) < MOST_REASON_CHARS + len("; and 100 more.")


def test_one_long_reason_is_cut() -> None:
    reason = health_of(fleet({}, m=broken("x" * 5000)), ["m"], SETTINGS).reason
    assert reason == "x" * MOST_REASON_CHARS + "..."


OLLAMA = Settings(_env_file=None, model_backend="ollama")


@pytest.mark.parametrize(("found", "status"), [(None, "healthy"), (("llama2",), "degraded")])
def test_where_ollama_says_which_models_there_are_it_has_to_have_been_asked(
    found: tuple[str, ...] | None, status: str
) -> None:
    seen = fleet({"x": 2}, found, llama2=ServedModel("ready"))
    health = health_of(seen, ["llama2"], OLLAMA)
    assert health.status == status
    assert health.reason in (None, "2 tasks wait for 'x', which no Ollama server has.")
