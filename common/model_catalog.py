"""Which models this deployment serves, by the settings alone: nothing is loaded or asked.

`MODELS` lists them; without it there is one, `MODEL_NAME`, and `default` is an alias of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from common.errors import ModelNotFoundError, SettingsError
from common.model_card import ModelKind
from common.model_entries import (
    DEFAULT_ALIAS,
    OLLAMA_TAG,
    UPSTREAM_BACKENDS,
    BackendName,
    ModelEntry,
    Source,
    ollama_id,
    read_entries,
)
from common.settings import Settings

UPSTREAM_DESCRIPTION = "A model that another server runs"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model.

    Attributes:
        model: Its id.
        names: What requests may call it besides: aliases, and in single-model mode what the
            settings call it.
        source: What to load: a hub name or a path; or what the servers that run it call it.
        title: Its name for people.
        format: As the operator states it; None: as the loaded model's card does.
        max_batch_size: Jobs of it that one worker runs at once.
        cost: What an answer of it costs, in any unit; routers weigh it against scores.
        kv_cache_gib: GiB of its jobs' keys and values on one worker, where it has its own.
        base_urls: The servers that run it; none: it is loaded here.
        api_key_env: The environment variable with the key for these servers, where it has its own.
    """

    model: str
    names: tuple[str, ...]
    source: str
    backend: BackendName
    description: str
    title: str
    format: str | None = None
    dtype: str = "auto"
    kind: ModelKind = "generate"
    max_batch_size: int = 8
    kv_cache_gib: float | None = None
    cost: float = 0.0
    base_urls: tuple[str, ...] = ()
    api_key_env: str | None = None

    @property
    def is_upstream(self) -> bool:
        """Whether other servers run it."""
        return self.backend in UPSTREAM_BACKENDS


class ModelCatalog:
    """The configured models, and those that workers have found besides, by id and alias.

    Attributes:
        default: The model of a request that names none.
        served: Those that workers with these settings serve, in the same order.

    Raises:
        SettingsError: The file that `MODELS` names has changed since the settings were checked,
            and is wrong now.
    """

    def __init__(self, settings: Settings) -> None:
        entries = _entries_of(settings)
        self._settings = settings
        self._by_name = _by_name(entries)
        self.default = self._named("DEFAULT_MODEL", settings.default_model or entries[0].model)
        others = (entry for entry in entries if entry is not self.default)
        self._configured: tuple[CatalogEntry, ...] = (self.default, *others)
        self._found: tuple[CatalogEntry, ...] = ()
        self._found_by_name: dict[str, CatalogEntry] = {}
        wanted = [self._named("WORKER_MODELS", name) for name in settings.worker_models or ()]
        self.served = tuple(e for e in self.entries if e in wanted) if wanted else self.entries

    @property
    def entries(self) -> tuple[CatalogEntry, ...]:
        """Every model, the default first; those that were found come last."""
        return self._configured + self._found

    @property
    def models(self) -> list[str]:
        """Their ids."""
        return [entry.model for entry in self.entries]

    def note_found(self, models: Collection[str]) -> None:
        """Offer these models besides those that are configured, and no others any more.

        Args:
            models: Ids, as a worker announces them.
        """
        ids = sorted(model for model in models if model not in self._by_name)
        if ids != [entry.model for entry in self._found]:
            self._found = tuple(ollama_entry(model, self._settings) for model in ids)
            self._found_by_name = _by_name(self._found)

    def resolve(self, name: str | None) -> CatalogEntry:
        """The model that a request names.

        Raises:
            ModelNotFoundError: No model has this id or alias.
        """
        if name is None:
            return self.default
        entry = self._by_name.get(name) or self._found_by_name.get(name)
        if entry is None:
            raise ModelNotFoundError(f"Model '{name}' not found", param="model")
        return entry

    def _named(self, setting: str, name: str) -> CatalogEntry:
        if name not in self._by_name:
            raise SettingsError(f"{setting}={name}: MODELS has no such model any more")
        return self._by_name[name]


def _by_name(entries: Collection[CatalogEntry]) -> dict[str, CatalogEntry]:
    return {name: entry for entry in entries for name in (entry.model, *entry.names)}


def _entries_of(settings: Settings) -> tuple[CatalogEntry, ...]:
    if settings.models is None:
        return (_single_entry(settings),)
    try:
        return tuple(_entry_of(entry, settings) for entry in read_entries(settings.models))
    except ValueError as error:
        raise SettingsError(f"MODELS: {error}") from error


def _single_entry(settings: Settings) -> CatalogEntry:
    if settings.model_backend in UPSTREAM_BACKENDS:
        return _single_upstream(settings)
    source = Source.of(settings.model_name)
    return CatalogEntry(
        model=source.model,
        names=(settings.model_name, DEFAULT_ALIAS),
        source=source.location,
        backend=settings.model_backend,
        description=source.description,
        title=source.model,
        dtype=settings.dtype,
        max_batch_size=settings.max_batch_size,
    )


def _single_upstream(settings: Settings) -> CatalogEntry:
    name = settings.only_model
    if settings.model_backend == "ollama":
        return ollama_entry(ollama_id(name), settings, DEFAULT_ALIAS)
    return CatalogEntry(
        model=Source.of(name).model,  # a server may call it by the path of its file
        names=(name, DEFAULT_ALIAS),
        source=name,
        backend=settings.model_backend,
        description=UPSTREAM_DESCRIPTION,
        title=name,
        max_batch_size=settings.max_batch_size,
        base_urls=settings.base_urls(settings.model_backend),
    )


def ollama_entry(model: str, settings: Settings, *names: str) -> CatalogEntry:
    """A model of Ollama's servers where `MODELS` is empty.

    Args:
        model: By `ollama_id`.
        settings: For its servers.
        names: What it may be called besides.
    """
    has_tag = ":" in model.rpartition("/")[2]
    return CatalogEntry(
        model=model,
        names=names if has_tag else (*names, model + OLLAMA_TAG),
        source=model,
        backend="ollama",
        description=UPSTREAM_DESCRIPTION,
        title=model,
        max_batch_size=settings.max_batch_size,
        base_urls=settings.base_urls("ollama"),
    )


def _entry_of(entry: ModelEntry, settings: Settings) -> CatalogEntry:
    backend, source = entry.backend or settings.model_backend, entry.where
    if backend in UPSTREAM_BACKENDS:
        source = Source(entry.id, str(entry.source), UPSTREAM_DESCRIPTION)
    return CatalogEntry(
        model=entry.id,
        names=tuple(entry.aliases),
        source=source.location,
        backend=backend,
        description=source.description if entry.description is None else entry.description,
        title=entry.name or entry.id,
        format=entry.format,
        dtype=entry.dtype or settings.dtype,
        kind=entry.kind,
        max_batch_size=entry.max_batch_size or settings.max_batch_size,
        kv_cache_gib=entry.kv_cache_gib,
        base_urls=entry.base_urls or settings.base_urls(backend),
        api_key_env=entry.api_key_env,
        cost=entry.cost,
    )
