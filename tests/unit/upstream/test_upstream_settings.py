"""How a model that other servers run is configured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import SettingsError
from common.model_catalog import CatalogEntry, ModelCatalog
from common.settings import environment_of, load_settings

URL, OTHER = "http://a:1/v1", "https://b/v1"


def entry_of(**settings: Any) -> CatalogEntry:
    return ModelCatalog(load_settings(**settings)).default


def listed(**entry: Any) -> str:
    return json.dumps([{"id": "a", "source": "x", "backend": "openai", **entry}])


def test_the_only_model_is_called_as_its_servers_call_it() -> None:
    entry = entry_of(model_backend="openai", model_name="org/m:1", openai_base_url=URL)
    assert (entry.model, entry.source, entry.base_urls) == ("org/m:1", "org/m:1", (URL,))
    assert entry.is_upstream


def test_a_model_that_its_server_calls_by_a_path_has_the_name_of_the_file() -> None:
    entry = entry_of(model_backend="openai", model_name="/srv/m.gguf", openai_base_url=URL)
    assert (entry.model, entry.source) == ("m.gguf", "/srv/m.gguf")
    assert "/srv/m.gguf" in entry.names


@pytest.mark.parametrize("given", [f"{URL},{OTHER}", f" {URL}/ , {OTHER}", f'["{URL}", "{OTHER}"]'])
def test_servers_are_listed_by_commas_or_as_json(given: str) -> None:
    assert load_settings(openai_base_url=given).openai_base_url == [URL, OTHER]


def test_servers_and_key_go_through_an_environment_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = load_settings(openai_base_url=f"{URL},{OTHER}", openai_api_key="k")
    for name, value in environment_of(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


@pytest.mark.parametrize("wrong", ["ftp://a", "a:1", "http://", "http://a?x=secret", '["http://a"'])
def test_what_is_no_address_is_refused_without_repeating_it(wrong: str) -> None:
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL") as caught:
        load_settings(openai_base_url=wrong)
    assert "Example: OPENAI_BASE_URL=http" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "settings", [{"model_backend": "openai"}, {"models": listed()}], ids=["alone", "listed"]
)
def test_without_a_server_nothing_starts(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="needs the address of a server"):
        load_settings(**settings)


def test_a_model_has_servers_of_its_own_or_those_of_the_settings() -> None:
    assert entry_of(models=listed(base_url=OTHER)).base_urls == (OTHER,)
    assert entry_of(models=listed(base_url=[URL, OTHER])).base_urls == (URL, OTHER)
    assert entry_of(models=listed(), openai_base_url=URL).base_urls == (URL,)


def test_a_model_may_have_a_key_of_its_own() -> None:
    entry = entry_of(models=listed(base_url=URL, api_key_env="BIG_KEY"))
    assert entry.api_key_env == "BIG_KEY"


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"dtype": "float32"}, "dtype"),
        ({"kv_cache_gib": 1}, "kv_cache_gib"),
        ({"source": None, "path": "x"}, "path"),
        ({"kind": "embed"}, "generate"),
        ({"backend": "transformers"}, "base_url"),
        ({"base_url": "ftp://a"}, "http://"),
    ],
)
def test_a_field_that_does_not_go_with_the_backend_is_refused(
    entry: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(models=listed(**{"base_url": URL, **entry}))


def test_models_of_our_own_have_no_servers() -> None:
    entry = entry_of(openai_base_url=URL)
    assert (entry.base_urls, entry.is_upstream) == ((), False)
