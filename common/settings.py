"""All settings: the environment or `.env`, no prefix, one field each.

A flag of `baton up|api|worker` beats the environment, which beats `.env`. `.env.example` shows
every default; a test holds the two equal. A wrong value stops the start (`SettingsError`).
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common.errors import SettingsError
from common.expectations import cut, expectation
from common.model_entries import (
    BackendName,
    DtypeName,
    check_base_url,
    check_servers,
    known_names,
    read_entries,
)

EXAMPLE_API_KEYS = frozenset({"test-key-123", "demo-key-456"})
ENV_FILE = ".env"
SECRETS = frozenset(
    {
        *("api_keys", "redis_url", "files_url"),
        *("openai_base_url", "openai_api_key", "ollama_base_url"),
    }
)
"""Fields whose values no message repeats."""

CommaSeparated = Annotated[list[str], NoDecode]


class Settings(BaseSettings):
    """What an operator can set. Units are in the name or the description."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    api_keys: CommaSeparated = Field(
        default=["test-key-123", "demo-key-456"],
        description="API keys, separated by commas. The two examples work on loopback only.",
        examples=["key-of-alice,key-of-bob"],
    )

    model_backend: BackendName = Field(
        default="transformers",
        description="What runs the model: transformers (this service's own engine), openai (any "
        "server with OpenAI's API) or ollama.",
    )
    model_name: str = Field(
        default="baton-toy",
        min_length=1,
        description="A Hugging Face causal LM by hub name or path; baton-toy is bundled. For "
        "openai: what its servers call the model.",
    )
    openai_base_url: Annotated[list[str] | None, NoDecode] = Field(
        default=None,
        description="Servers with OpenAI's API, separated by commas or as a JSON list; of several "
        "each job goes to the one with the fewest. Without a path /v1 is meant.",
        examples=["http://10.0.0.1:8000/v1,http://10.0.0.2:8000/v1"],
    )
    openai_api_key: str | None = Field(
        default=None, description="The key that these servers want. Empty: none."
    )
    ollama_base_url: CommaSeparated = Field(
        default=["http://localhost:11434"],
        description="Ollama servers, separated by commas or as a JSON list.",
        examples=["http://10.0.0.1:11434"],
    )
    ollama_model: str = Field(
        default="llama2",
        min_length=1,
        description="The model of a request that names none; the others that the servers have are "
        "offered, too.",
    )
    ollama_num_ctx: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that prompt and output may have together on them (num_ctx). Empty: "
        "as they are set.",
        examples=["8192"],
    )
    upstream_retry_s: float = Field(
        default=30,
        ge=0,
        description="Seconds for which a job is tried again, on any of its servers, when one fails "
        "it; then it fails.",
    )
    models: str | None = Field(
        default=None,
        description="Several models: JSON text, or the path of a .json or .toml file; "
        "docs/operations.md shows one. Empty: MODEL_NAME alone.",
        examples=['[{"id": "toy", "source": "baton-toy"}]'],
    )
    default_model: str | None = Field(
        default=None,
        description="The model of a request that names none, by id or alias. Empty: the first.",
    )
    model_cache_size: int | None = Field(
        default=None,
        ge=1,
        description="Models that one worker keeps loaded; the others wait until it has room. "
        "Empty: all.",
        examples=["2"],
    )
    worker_models: Annotated[list[str] | None, NoDecode] = Field(
        default=None,
        description="The models, by id or alias and separated by commas, that the workers started "
        "with this serve. Empty: all.",
    )
    device: str = Field(
        default="auto",
        description="auto, cpu, cuda (every GPU) or cuda:0,2 (these GPUs).",
    )
    dtype: DtypeName = Field(
        default="auto",
        description="auto, float32, bfloat16, float16 or int8 (weights, on a CPU). auto: the "
        "checkpoint's on a GPU; on a CPU float32 below 200 M parameters, else bfloat16.",
    )
    cpu_kernels: Literal["auto", "torch"] = Field(
        default="auto",
        description="On a CPU. auto: kernels that a worker compiles at its first start, where "
        "there is a C++ compiler, else torch's; torch: torch's alone.",
    )
    max_batch_size: int = Field(
        default=8, ge=1, le=1024, description="Jobs of one model that one worker runs at once."
    )
    kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        description="GiB for the keys and values of a worker's jobs. Empty: on a CPU half of the "
        "memory that is free once the model is loaded, on a GPU what GPU_MEMORY_FRACTION leaves. "
        "The models that a worker keeps loaded share it.",
        examples=["8"],
    )
    gpu_memory_fraction: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of a GPU's memory that the models and their caches may take together.",
    )

    max_new_tokens: int = Field(
        default=512, ge=1, description="Tokens to generate where a request does not say."
    )
    temperature: float = Field(
        default=0.7, ge=0, le=2, description="Sampling temperature where a request does not say."
    )
    top_p: float = Field(
        default=0.9, ge=0, le=1, description="Nucleus mass where a request does not say."
    )
    task_time_limit: float = Field(
        default=120, gt=0, description="Seconds of execution after which a job expires."
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    cors_origins: CommaSeparated = Field(
        default=["*"],
        examples=["https://app.example.com"],
        description="Origins that browsers may call from, separated by commas.",
    )
    trusted_proxies: CommaSeparated = Field(
        default=["127.0.0.1"],
        description="Addresses whose X-Forwarded-For and -Proto count, separated by commas.",
    )

    redis_url: str | None = Field(
        default=None,
        description="Redis or Valkey. Empty: `baton up` runs its own server.",
        examples=["redis://:password@127.0.0.1:6379/0"],
    )
    data_dir: Path = Field(
        default=Path("data"), description="Where the embedded Redis keeps its append-only file."
    )

    files_url: str | None = Field(
        default=None,
        description="Where files of /v1/files and batches are kept: file:///folder, s3://bucket, "
        "gs://bucket or az://container, with credentials from the environment. Empty: in DATA_DIR. "
        "Gateways on several hosts need one that they share.",
        examples=["s3://my-bucket/baton"],
    )

    scorers_dir: Path = Field(
        default=Path("scorers"),
        description="Where `baton scorer train` saves scorers, and the workers look for those of "
        "/infer.",
    )

    log_dir: Path = Field(default=Path("logs"), description="Where the three log files go.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of the console's lines: text or json."
    )
    log_prompts: bool = Field(
        default=False, description="Write prompts and outputs into llm_requests.log."
    )

    rate_limit_per_minute: int = Field(
        default=60, ge=1, description="Submissions a minute per key; reads get ten times that."
    )
    rate_limit_burst: int = Field(
        default=10, ge=1, description="Submissions that a key may send at once."
    )
    queue_capacity: int = Field(
        default=100_000, ge=1, description="Jobs that may wait; above it a submission is 503."
    )
    result_ttl_s: int = Field(
        default=86_400, ge=1, description="Seconds for which a result is kept."
    )
    stream_grace_s: int = Field(
        default=300, ge=1, description="Seconds for which an ended stream can be resumed."
    )
    lease_s: float = Field(
        default=15,
        ge=1,
        description="Seconds without a heartbeat after which a job goes to another worker.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="Worker deaths in a row, without progress between, after which a job fails.",
    )
    drain_s: float = Field(
        default=2,
        ge=0,
        description="Seconds that a worker gets at SIGTERM for jobs that end within them; it hands "
        "the others back at once.",
    )
    engine_stall_s: float = Field(
        default=30,
        ge=1,
        description="Seconds that one engine step may take before it counts as hung.",
    )
    wait_limit_s: float = Field(
        default=300,
        gt=0,
        description="Seconds that a call may wait for its answer (/v1); then it is 504.",
    )
    shutdown_s: float = Field(
        default=10, ge=0, description="Seconds that open requests get to end at a shutdown."
    )

    @field_validator(
        *("api_keys", "cors_origins", "trusted_proxies", "worker_models", "openai_base_url"),
        "ollama_base_url",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"no valid JSON: {error.msg} at column {error.colno}") from None
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("models")
    @classmethod
    def _check_models(cls, models: str | None) -> str | None:
        if models is not None:
            read_entries(models)  # its ValueError says what is wrong
        return models

    @field_validator("openai_base_url")
    @classmethod
    def _check_base_urls(cls, urls: list[str] | None) -> list[str] | None:
        return None if urls is None else [check_base_url(url) for url in urls]

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+(,\d+)*)?", device):
            raise ValueError("must be auto, cpu, cuda or cuda with numbers, as in cuda:0,2")
        return device

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return url

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/]+", origin):
                raise ValueError(f"{origin!r} must be * or a scheme and a host without a path")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            if proxy != "*":
                ipaddress.ip_network(proxy, strict=False)  # its ValueError says what is wrong
        return proxies

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, keys: list[str]) -> list[str]:
        if not keys:
            raise ValueError("at least one API key is needed")
        bad = [key for key in keys if not key.isascii() or not key.isprintable() or " " in key]
        if bad:
            raise ValueError("a key is made of printable ASCII characters without spaces")
        return keys

    @model_validator(mode="after")
    def _refuse_example_keys_in_public(self) -> Self:
        if not self.listens_on_loopback and EXAMPLE_API_KEYS & set(self.api_keys):
            raise ValueError(
                f"HOST={self.host} can be reached from other machines, and API_KEYS holds an "
                "example key that everybody knows. Example: API_KEYS=<a long random string>"
            )
        return self

    @model_validator(mode="after")
    def _refuse_unknown_models(self) -> Self:
        if not self.default_model and self.worker_models is None:
            return self
        known = known_names(self.models, self.only_model)
        for setting, names in (
            ("DEFAULT_MODEL", [self.default_model] if self.default_model else []),
            ("WORKER_MODELS", self.worker_models or []),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"{setting}={name}: there is no such model; there are {', '.join(known)}. "
                        f"Example: {setting}={known[0]}"
                    )
        if self.worker_models == []:
            raise ValueError(
                f"WORKER_MODELS=,: at least one model is needed. Example: WORKER_MODELS={known[0]}"
            )
        return self

    @model_validator(mode="after")
    def _check_upstreams(self) -> Self:
        servers: dict[BackendName, list[str] | None] = {
            "openai": self.openai_base_url,
            "ollama": self.ollama_base_url,
        }
        check_servers(self.models, self.model_backend, servers)
        return self

    @field_validator("ollama_base_url")
    @classmethod
    def _check_ollama_urls(cls, urls: list[str]) -> list[str]:
        if not urls:
            raise ValueError("at least one server is needed")
        return [check_base_url(url) for url in urls]

    @property
    def only_model(self) -> str:
        """What the only model is called where `models` is empty, in its backend's words."""
        return self.ollama_model if self.model_backend == "ollama" else self.model_name

    @property
    def finds_models(self) -> bool:
        """Whether the models that Ollama's servers have are offered beside the only one."""
        return self.model_backend == "ollama" and self.models is None and not self.worker_models

    def base_urls(self, backend: BackendName) -> tuple[str, ...]:
        """The servers of a backend; none of our own."""
        if backend == "ollama":
            return tuple(self.ollama_base_url)
        return tuple(self.openai_base_url or ()) if backend == "openai" else ()

    @property
    def listens_on_loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load_settings(**flags: Any) -> Settings:
    """Read flags, environment and `.env`, in this order of precedence.

    Args:
        flags: Values by field name that beat every other source, as strings or of the type.

    Raises:
        SettingsError: A value is wrong; one line for each, with an example.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def unknown_names_in_env_file(path: str = ENV_FILE) -> list[str]:
    """One warning for each name in the file that looks like a misspelt setting."""
    known = [name.upper() for name in Settings.model_fields]
    warnings = []
    for name in dotenv_values(path):
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.75)
        if name.upper() not in known and close:
            warnings.append(f"{path}: {name} is no setting and is ignored; was {close[0]} meant?")
    return warnings


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for a child process; unset ones are left out."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {name.upper(): to_text(value) for name, value in values.items()}


def to_text(value: Any) -> str:
    """A value as it stands in the environment or in `.env`."""
    if isinstance(value, list):
        return ",".join(value) or ","  # nothing at all would mean unset
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _explain(problem: dict[str, Any]) -> str:
    message = expectation(problem)
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    field = Settings.model_fields[name]
    example = field.examples[0] if field.examples else field.get_default()
    given = cut(to_text(problem["input"]))
    shown = "" if name in SECRETS else f"={given}"
    return f"{name.upper()}{shown}: {message}. Example: {name.upper()}={to_text(example)}"
