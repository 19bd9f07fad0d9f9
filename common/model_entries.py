"""Reads `MODELS`: several models by JSON text, or by a TOML or JSON file. Nothing is loaded.

    [{"id": "toy", "source": "baton-toy", "aliases": ["small"]}]

In TOML each model is a `[[models]]` table. Knows nothing about the other settings.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from common.expectations import cut, expectation
from common.model_card import ModelKind

BackendName = Literal["transformers", "openai", "ollama"]
UPSTREAM_BACKENDS: tuple[BackendName, ...] = ("openai", "ollama")
"""Those whose models other servers run."""
DtypeName = Literal["auto", "float32", "bfloat16", "float16", "int8"]

DEFAULT_ALIAS = "default"
"""Names the only model where `MODELS` is empty."""
BUNDLED_MODEL = "baton-toy"
BUNDLED_DIR = Path(__file__).parent.parent / "models" / BUNDLED_MODEL
OLLAMA_TAG = ":latest"
MAX_NAME_CHARS = 200
# An id is part of Redis keys, whose parts a colon separates, and of addresses.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def _check_id(text: str) -> str:
    if not _ID.fullmatch(text) or len(text) > MAX_NAME_CHARS:
        raise ValueError(
            "must be made of letters, digits, '.', '_' and '-', with '/' between parts, as in "
            f"org/my-model-1.5, of {MAX_NAME_CHARS} characters at most; got {text!r}"
        )
    return text


def check_base_url(text: str) -> str:
    """The address of a server without a slash at its end.

    Raises:
        ValueError: It is none; the message does not repeat it, for it may hold a password.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be http:// or https:// with a host, as in http://127.0.0.1:8080/v1")
    return text.strip().rstrip("/")


def ollama_id(name: str) -> str:
    """The id of a model of Ollama's: its name, without the tag that it has where nobody says."""
    return name.removesuffix(OLLAMA_TAG)


def _check_alias(text: str) -> str:
    if not text.strip() or not text.isprintable() or "," in text or len(text) > MAX_NAME_CHARS:
        raise ValueError(
            f"must be printable characters without commas, {MAX_NAME_CHARS} at most; got {text!r}"
        )
    return text


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    Attributes:
        model: What it is called where nobody says: the hub name, or the last part of a path.
        location: What to load: a hub name or a path.
    """

    model: str
    location: str
    description: str

    @classmethod
    def of(cls, text: str) -> Self:
        """The source that `MODEL_NAME` or a model's `source` means."""
        if text == BUNDLED_MODEL:
            return cls(text, str(BUNDLED_DIR), "The bundled toy model")
        # By its form and not by what is there: a gateway may not have the folder that its workers
        # have.
        if text.startswith(("/", "./", "../", "~")):
            return cls.of_path(text)
        return cls(text, text, "A model from the Hugging Face hub")

    @classmethod
    def of_path(cls, text: str) -> Self:
        """The source that is a folder, whatever the form of its path."""
        path = Path(text).expanduser()
        # The loader takes a relative path without dots for a hub name.
        location = str(path) if path.is_absolute() else f"./{path}"
        return cls(path.name, location, "A model from a local folder")


class ModelEntry(BaseModel):
    """One model, as the operator describes it. What is None is left to the other settings.

    Attributes:
        source: A hub name, a path, or the bundled model's name.
        path: The same, taken as a path whatever its form.
        base_url: Of a model that other servers run: where they are.
        api_key_env: The environment variable that holds the key for them.
        cost: What an answer of it costs, in any unit; routers weigh it against scores.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, AfterValidator(_check_id)]
    name: str | None = Field(default=None, min_length=1)
    description: str | None = None
    format: str | None = Field(default=None, min_length=1)
    source: str | None = Field(default=None, min_length=1)
    path: str | None = Field(default=None, min_length=1)
    backend: BackendName | None = None
    base_url: str | list[str] | None = None
    api_key_env: str | None = Field(default=None, min_length=1)
    dtype: DtypeName | None = None
    kind: ModelKind = "generate"
    aliases: list[Annotated[str, AfterValidator(_check_alias)]] = []
    max_batch_size: int | None = Field(default=None, ge=1, le=1024)
    kv_cache_gib: Annotated[float, Field(gt=0, strict=False)] | None = None
    cost: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = 0.0

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if (self.source is None) == (self.path is None):
            raise ValueError("one of source (a hub name or a path) and path is needed")
        return self

    @model_validator(mode="after")
    def _check_base_url(self) -> Self:
        self.base_urls  # noqa: B018 - its ValueError says what is wrong
        return self

    @property
    def base_urls(self) -> tuple[str, ...]:
        """Where the servers are that run it; none: where the settings say.

        Raises:
            ValueError: One of them is no address.
        """
        urls = [self.base_url] if isinstance(self.base_url, str) else self.base_url or []
        return tuple(map(check_base_url, urls))

    def check_backend(self, backend: BackendName) -> None:
        """Check that the fields go with the backend that will run the model.

        Raises:
            ValueError: One does not.
        """
        is_upstream = backend in UPSTREAM_BACKENDS
        wrong = _LOCAL_FIELDS if is_upstream else _UPSTREAM_FIELDS
        given = [name for name in wrong if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{self.id!r}: {given[0]} does not go with the backend {backend}")
        if is_upstream and self.kind != "generate":
            raise ValueError(f"{self.id!r}: the backend {backend} runs models that generate alone")

    @property
    def where(self) -> Source:
        """Where it comes from."""
        return Source.of(self.source) if self.source is not None else Source.of_path(str(self.path))


_LOCAL_FIELDS = ("path", "dtype", "kv_cache_gib")
_UPSTREAM_FIELDS = ("base_url", "api_key_env")
_ENTRIES = TypeAdapter(list[ModelEntry])


def known_names(models: str | None, model_name: str) -> list[str]:
    """Every id and alias that the two settings give, the first model's id first.

    Raises:
        ValueError: As `read_entries`.
    """
    if models is None:
        return [Source.of(model_name).model, model_name, DEFAULT_ALIAS]
    return [name for entry in read_entries(models) for name in (entry.id, *entry.aliases)]


def check_servers(
    models: str | None,
    model_backend: BackendName,
    servers: Mapping[BackendName, Sequence[str] | None],
) -> None:
    """Check that every model that other servers run has one, and no fields of another backend.

    Args:
        models: The setting.
        model_backend: The setting.
        servers: Of each such backend, by its own setting, `OPENAI_BASE_URL`.

    Raises:
        ValueError: As `read_entries`; or a server or a field is wrong.
    """
    wanted = [(model_backend, f"MODEL_BACKEND={model_backend}")] if models is None else []
    for entry in read_entries(models) if models is not None else ():
        backend = entry.backend or model_backend
        entry.check_backend(backend)
        if not entry.base_urls:
            wanted.append((backend, f"the model {entry.id!r} has the backend {backend} and"))
    for backend, who in wanted:
        if backend in UPSTREAM_BACKENDS and not servers.get(backend):
            setting = f"{backend.upper()}_BASE_URL"
            raise ValueError(
                f"{setting}: {who} needs the address of a server. "
                f"Example: {setting}=http://127.0.0.1:8080/v1"
            )


def read_entries(text: str) -> tuple[ModelEntry, ...]:
    """Read the value of `MODELS`.

    Args:
        text: JSON, or the path of a file that ends in `.json` or `.toml`.

    Raises:
        ValueError: It cannot be read, or is wrong; the message says where and why.
    """
    values = _parse(text.strip())
    if isinstance(values, dict):
        if set(values) != {"models"}:
            raise ValueError(
                f"must be a list of models, or hold `models` alone; got {_keys(values)}"
            )
        values = values["models"]
    if not isinstance(values, list):
        raise ValueError(f"must be a list of models; got {type(values).__name__}")
    if not values:
        raise ValueError("the list holds no model; leave the setting empty to serve MODEL_NAME")
    try:
        entries = tuple(_ENTRIES.validate_python(values))
    except ValidationError as error:
        told = [_explain(dict(problem), values) for problem in error.errors()]
        # A value that is of none of several types is a problem of each.
        raise ValueError("; ".join(dict.fromkeys(told))) from None
    _refuse_duplicates(entries)
    return entries


def _parse(text: str) -> Any:
    if text.startswith(("[", "{")):
        return _parse_json(text, "")
    path = Path(text).expanduser()
    if path.suffix not in (".json", ".toml"):
        raise ValueError("must be JSON text, or the path of a file that ends in .json or .toml")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"the file cannot be read: {reason}") from error
    if path.suffix == ".json":
        return _parse_json(content, f"{path}: ")
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:  # its message names line and column
        raise ValueError(f"{path}: no valid TOML: {error}") from error


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}no valid JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise ValueError(f"{where}no list of models: it is nested too deeply") from error


def _keys(values: dict[str, Any]) -> str:
    return ", ".join(map(repr, values)) or "nothing"


def _explain(problem: dict[str, Any], values: list[Any]) -> str:
    index, *place = problem["loc"]
    value = values[index]
    name = f" ({value['id']!r})" if isinstance(value, dict) and "id" in value else ""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
    message = expectation(problem)
    if problem["type"] == "extra_forbidden":
        return f"model {index + 1}{name} has an unknown field {field!r}; there are " + ", ".join(
            ModelEntry.model_fields
        )
    if problem["type"] == "missing":
        message = "is missing"
    elif place[:1] == ["base_url"] and problem["type"] != "value_error":
        # Without what came: that may hold a password.
        field, message = "base_url", "must be an address, or a list of them"
    elif problem["type"] != "value_error":
        message += f"; got {cut(json.dumps(problem['input'], ensure_ascii=False, default=repr))}"
    return f"model {index + 1}{name}: {field + ' ' if field else ''}{message}"


def _refuse_duplicates(entries: tuple[ModelEntry, ...]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        for name in (entry.id, *entry.aliases):
            if name in seen:
                raise ValueError(
                    f"{name!r} names both {seen[name]!r} and {entry.id!r}"
                    if seen[name] != entry.id
                    else f"{name!r} stands twice for {entry.id!r}"
                )
            seen[name] = entry.id
