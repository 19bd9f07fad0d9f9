"""Which models this deployment serves, by the settings alone: nothing is loaded or asked.

In single-model mode there is one, and `default` is an alias of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import ModelNotFoundError
from common.settings import Settings

DEFAULT_ALIAS = "default"
BUNDLED_MODEL = "baton-toy"
BUNDLED_DIR = Path(__file__).parent.parent / "models" / BUNDLED_MODEL


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model.

    Attributes:
        model: Its id: the hub name, or the last part of a path.
        configured: What the settings call it, which requests may too.
        source: What to load: a hub name or a path.
    """

    model: str
    configured: str
    source: str
    backend: str
    description: str


class ModelCatalog:
    """The configured models, by id and alias."""

    def __init__(self, settings: Settings) -> None:
        self._entry = _entry_of(settings)

    @property
    def entries(self) -> tuple[CatalogEntry, ...]:
        """Every configured model, the default first."""
        return (self._entry,)

    @property
    def default(self) -> CatalogEntry:
        """The model of a request that names none."""
        return self._entry

    def resolve(self, name: str | None) -> CatalogEntry:
        """The model that a request names.

        Raises:
            ModelNotFoundError: No model has this id or alias.
        """
        if name in (None, DEFAULT_ALIAS, self._entry.model, self._entry.configured):
            return self._entry
        raise ModelNotFoundError(f"Model '{name}' not found", param="model")


def _entry_of(settings: Settings) -> CatalogEntry:
    name, backend = settings.model_name, settings.model_backend
    if name == BUNDLED_MODEL:
        return CatalogEntry(name, name, str(BUNDLED_DIR), backend, "The bundled toy model")
    # By its form and not by what is there: a gateway may not have the folder that its workers have.
    if name.startswith(("/", "./", "../", "~")):
        path = Path(name).expanduser()
        return CatalogEntry(path.name, name, str(path), backend, "A model from a local folder")
    return CatalogEntry(name, name, name, backend, "A model from the Hugging Face hub")
