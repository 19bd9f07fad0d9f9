"""Jobs that wait for a model that the settings do not name and no live worker serves.

Nobody fails them: another gateway or worker may have other settings, and bring the model back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from common.settings import Settings


def stranded(queued: Mapping[str, int], known: Collection[str]) -> dict[str, int]:
    """The waiting jobs of each model that nobody knows.

    Args:
        queued: Waiting jobs of each model.
        known: Models that are configured, or that a live worker serves.
    """
    return {model: num for model, num in sorted(queued.items()) if num and model not in known}


def why_stranded(model: str, num_jobs: int, settings: Settings) -> str:
    """A sentence without its full stop."""
    who = "1 task waits" if num_jobs == 1 else f"{num_jobs} tasks wait"
    return f"{who} for '{model}', which {_what_it_lacks(settings)}"


def _what_it_lacks(settings: Settings) -> str:
    if settings.finds_models:
        return "no Ollama server has"
    # Not what the setting holds: that may be a path, and `/health` needs no key.
    only = "OLLAMA_MODEL" if settings.model_backend == "ollama" else "MODEL_NAME"
    return f"is not configured ({only if settings.models is None else 'MODELS'})"
