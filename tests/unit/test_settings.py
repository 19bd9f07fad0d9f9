"""Where settings come from, what is refused, and that `.env.example` shows all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.settings import (
    Settings,
    environment_of,
    load_settings,
    to_text,
    unknown_names_in_env_file,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An environment without settings, and a function that writes the `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def write(text: str) -> None:
        (tmp_path / ".env").write_text(text)

    return write


def problem(**flags: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(**flags)
    return caught.value.message


def test_env_example_shows_every_setting_with_its_description_and_default_in_order() -> None:
    blocks = (ROOT / ".env.example").read_text().rstrip("\n").split("\n\n")[1:]
    expected = [
        f"# {field.description}\n{name.upper()}={to_text(field.get_default())}"
        for name, field in Settings.model_fields.items()
    ]
    assert blocks == expected


def test_env_example_as_it_stands_gives_the_defaults(env_file: Callable[[str], None]) -> None:
    env_file((ROOT / ".env.example").read_text())
    assert load_settings() == Settings.model_construct()


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_flag_beats_the_environment_which_beats_the_file(
    env_file: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file("PORT=1001\nMODEL_NAME=from-file\nLOG_LEVEL=ERROR\n")
    monkeypatch.setenv("PORT", "1002")
    monkeypatch.setenv("MODEL_NAME", "from-environment")
    settings = load_settings(port="1003")
    shown = (settings.port, settings.model_name, settings.log_level)
    assert shown == (1003, "from-environment", "ERROR")


def test_an_empty_value_is_an_unset_one(
    env_file: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file("PORT=1001\nMODEL_NAME=\n")
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("REDIS_URL", "")
    settings = load_settings()
    assert (settings.port, settings.model_name, settings.redis_url) == (1001, "baton-toy", None)


def test_names_in_the_environment_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("model_name", "small")
    assert load_settings().model_name == "small"


def test_an_empty_list_reaches_a_child_process_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "CORS_ORIGINS", environment_of(load_settings(cors_origins=[]))["CORS_ORIGINS"]
    )
    assert load_settings().cors_origins == []


def test_a_secret_is_not_repeated_in_the_message() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(redis_url="postgres://user:hunter2@host")
    assert "REDIS_URL: " in caught.value.message
    assert "Example: REDIS_URL=redis://:password@127.0.0.1:6379/0" in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("api_keys", ["a", "b"]),
        ("cors_origins", ["http://a", "https://b:81"]),
        ("trusted_proxies", ["::1", "10.0.0.0/8"]),
    ],
)
def test_a_list_is_split_at_commas_and_blanks_around_its_parts_are_dropped(
    name: str, parts: list[str]
) -> None:
    given = f" {parts[0]} ,, {parts[1]},"
    assert getattr(load_settings(**{name: given}), name) == parts


def test_settings_go_through_an_environment_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_settings(
        api_keys="a,b",
        lease_s="2.5",
        log_prompts="true",
        data_dir="/x y",
        port="1",
        top_p="0",
        models='[{"id": "a", "source": "x"}]',
        worker_models="a",
    )
    for name, value in environment_of(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


@pytest.mark.parametrize(
    ("name", "value", "expected", "example"),
    [
        ("port", "many", "must be a whole number", "8000"),
        ("port", "0", "at least 1", "8000"),
        ("temperature", "hot", "must be a number", "0.7"),
        ("port", "65536", "at most 65535", "8000"),
        ("model_backend", "magic", "must be one of transformers, openai, ollama", "transformers"),
        ("device", "gpu", "must be auto, cpu, cuda", "auto"),
        ("device", "cuda:", "must be auto, cpu, cuda", "auto"),
        ("cors_origins", "foo", "a scheme and a host", "https://app.example.com"),
        ("trusted_proxies", "foo", "IPv4 or IPv6", "127.0.0.1"),
        ("dtype", "int3", "must be one of auto, float32, ", "auto"),
        ("temperature", "2.1", "at most 2", "0.7"),
        ("temperature", "nan", "", "0.7"),
        ("top_p", "-1", "at least 0", "0.9"),
        ("max_new_tokens", "0", "at least 1", "512"),
        ("max_batch_size", "0", "at least 1", "8"),
        ("task_time_limit", "0", "must be above 0", "120"),
        ("log_level", "LOUD", "must be one of DEBUG, ", "INFO"),
        ("log_format", "xml", "must be one of text, json", "text"),
        ("log_prompts", "perhaps", "must be true or false", "false"),
        ("queue_capacity", "0", "at least 1", "100000"),
        ("lease_s", "0.5", "at least 1", "15"),
        ("max_attempts", "0", "at least 1", "3"),
        ("models", "[", "no valid JSON", '[{"id": "toy", "source": "baton-toy"}]'),
        ("model_cache_size", "0", "at least 1", "2"),
        ("default_model", "gpt2", "there is no such model", "baton-toy"),
        ("worker_models", "gpt2", "there is no such model", "baton-toy"),
        ("worker_models", ",", "at least one model", "baton-toy"),
    ],
)
def test_a_wrong_value_is_told_with_its_name_its_problem_and_an_example(
    name: str, value: str, expected: str, example: str
) -> None:
    message = problem(**{name: value})
    upper = name.upper()
    assert message.startswith(f"{upper}={value}: ")
    assert expected in message
    assert "Input" not in message
    assert message.endswith(f". Example: {upper}={example}")


def test_a_default_model_is_looked_for_among_those_of_models() -> None:
    models = '[{"id": "a", "source": "baton-toy", "aliases": ["b"]}]'
    assert load_settings(models=models, default_model="b", worker_models="a").worker_models == ["a"]
    message = problem(models=models, default_model="baton-toy")
    assert message == (
        "DEFAULT_MODEL=baton-toy: there is no such model; there are a, b. Example: DEFAULT_MODEL=a"
    )


def test_a_long_wrong_value_is_not_shown_whole() -> None:
    message = problem(models='[{"id": ' + "5" * 10_000)
    assert 100 < len(message) < 1000


def test_every_wrong_value_has_its_line() -> None:
    lines = problem(port="0", lease_s="x").splitlines()
    assert [line.partition("=")[0] for line in lines] == ["PORT", "LEASE_S"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(",", "at least one"), ("with space", "without spaces"), ("schlüssel", "printable ASCII")],
)
def test_a_wrong_api_key_is_told_without_being_shown(keys: str, expected: str) -> None:
    message = problem(api_keys=keys)
    assert message.startswith("API_KEYS: ")
    assert expected in message
    assert keys not in message.removesuffix("API_KEYS=key-of-alice,key-of-bob") or keys == ","


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_example_keys_are_refused_on_a_host_that_others_can_reach(host: str) -> None:
    message = problem(host=host)
    assert f"HOST={host}" in message
    assert "API_KEYS" in message
    assert "Example: API_KEYS=" in message


def test_one_example_key_among_others_is_refused_too() -> None:
    assert "example key" in problem(host="0.0.0.0", api_keys="mine,demo-key-456")


def test_own_keys_allow_any_host() -> None:
    assert load_settings(host="0.0.0.0", api_keys="mine").host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_example_keys_work_on_loopback(host: str) -> None:
    assert load_settings(host=host).listens_on_loopback


def test_a_misspelt_name_in_the_file_is_warned_about(env_file: Callable[[str], None]) -> None:
    env_file("MODEL_NAM=x\nPORT=1001\nSOMETHING_ELSE=1\n")
    assert unknown_names_in_env_file() == [
        ".env: MODEL_NAM is no setting and is ignored; was MODEL_NAME meant?"
    ]


def test_a_missing_file_is_no_problem() -> None:
    assert unknown_names_in_env_file() == []
