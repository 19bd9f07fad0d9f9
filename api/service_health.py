"""Whether the service is well, by one snapshot of the fleet, and everything that is wrong with it.

Knows nothing about HTTP or Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.fleet import Fleet
from common.settings import Settings
from common.stranded import stranded, why_stranded

MOST_REASON_CHARS = 1000
"""Of everything that is wrong, in one line."""


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """How the whole service is.

    Attributes:
        reason: Why it is not healthy; None where it is.
    """

    status: Literal["healthy", "degraded", "unhealthy"]
    reason: str | None = None


def health_of(fleet: Fleet | None, models: Sequence[str], settings: Settings) -> ServiceHealth:
    """How the service is.

    Args:
        fleet: None while Redis does not answer.
        models: Those that are offered, at least one.
        settings: Of the gateway.
    """
    if fleet is None:
        return ServiceHealth("unhealthy", "Redis cannot be reached.")
    problems = _problems(fleet, models, settings)
    if not problems:
        return ServiceHealth("healthy")
    is_hopeless = bool(fleet.workers) and all(fleet.state(model) == "error" for model in models)
    return ServiceHealth("unhealthy" if is_hopeless else "degraded", _joined(problems))


def _problems(fleet: Fleet, models: Sequence[str], settings: Settings) -> list[str]:
    """What needs a person comes first: what loads will be there by itself."""
    strays = _stranded(fleet, models, settings)
    if not fleet.workers:
        return ["No worker is running.", *strays]
    told = {model: _why_not(fleet, model) for model in models}
    if len(models) > 1:
        told = {model: f"Model '{model}': {reason}" for model, reason in told.items()}
    broken = [told[model] for model in models if fleet.state(model) == "error"]
    absent = [told[model] for model in models if fleet.state(model) == "loading"]
    return [*broken, *strays, *absent]


def _stranded(fleet: Fleet, models: Sequence[str], settings: Settings) -> list[str]:
    if settings.finds_models and fleet.found is None:
        return []  # nobody has looked yet which models there are
    known = {*models, *(model for worker in fleet.workers for model in worker.models)}
    waiting = stranded(fleet.queued, known).items()
    return [f"{why_stranded(model, num_jobs, settings)}." for model, num_jobs in waiting]


def _why_not(fleet: Fleet, model: str) -> str:
    served = fleet.states(model)
    if fleet.state(model) == "error":
        return next((s.reason for s in served if s.reason), "No worker can load the model.")
    away = fleet.away(model)
    if away is not None:
        return away
    return "The model is loading." if served else "No worker serves the model."


def _joined(problems: Sequence[str]) -> str:
    """As many as there is room for, the first one always, and how many more there are."""
    shown = _cut(problems[0])
    for index, problem in enumerate(problems[1:], start=1):
        longer = f"{shown.removesuffix('.')}; {problem}"
        if len(longer) > MOST_REASON_CHARS:
            return f"{shown.removesuffix('.')}; and {len(problems) - index} more."
        shown = longer
    return shown


def _cut(text: str) -> str:
    return text if len(text) <= MOST_REASON_CHARS else f"{text[:MOST_REASON_CHARS]}..."
