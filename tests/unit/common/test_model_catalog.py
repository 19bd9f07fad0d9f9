"""Which models the settings name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import ModelNotFoundError
from common.model_catalog import ModelCatalog
from common.model_entries import BUNDLED_DIR
from common.settings import Settings


def catalog(name: str) -> ModelCatalog:
    return ModelCatalog(Settings(model_name=name))


def test_the_bundled_model_is_found_in_its_folder() -> None:
    assert catalog("baton-toy").default.source == str(BUNDLED_DIR)


def test_a_hub_name_is_its_own_id() -> None:
    entry = catalog("Qwen/Qwen3-0.6B").default
    assert (entry.model, entry.source) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")


def test_a_local_folder_is_named_by_its_last_part(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    entry = catalog(f"{folder}/").default
    assert (entry.model, Path(entry.source)) == ("my-model", folder)


def test_a_folder_that_this_machine_lacks_is_still_a_folder() -> None:
    entry = catalog("/no/such/my-model").default
    assert (entry.model, entry.description) == ("my-model", "A model from a local folder")


def test_a_folder_is_also_found_by_its_path() -> None:
    assert catalog("/no/such/my-model").resolve("/no/such/my-model").model == "my-model"


@pytest.mark.parametrize("name", [None, "default", "gpt2"])
def test_no_name_the_alias_and_the_id_all_mean_the_one_model(name: str | None) -> None:
    assert catalog("gpt2").resolve(name).model == "gpt2"


def test_another_model_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError, match="Model 'does-not-exist' not found"):
        catalog("gpt2").resolve("does-not-exist")


def several(**settings: Any) -> ModelCatalog:
    models = [
        {"id": "a", "source": "baton-toy"},
        {"id": "b", "source": "org/b", "name": "B", "aliases": ["bee"], "dtype": "int8"},
        {"id": "c", "path": "c", "kind": "embed", "max_batch_size": 3, "format": "GGUF"},
    ]
    return ModelCatalog(Settings(_env_file=None, models=json.dumps(models), **settings))


def ids(entries: Any) -> list[str]:
    return [entry.model for entry in entries]


def test_of_several_models_the_first_is_the_default() -> None:
    assert several().default.model == several().resolve(None).model == "a"
    assert ids(several().entries) == ["a", "b", "c"]


def test_the_default_model_is_chosen_by_id_or_alias_and_comes_first() -> None:
    for name in ("b", "bee"):
        assert ids(several(default_model=name).entries) == ["b", "a", "c"]
        assert several(default_model=name).resolve(None).model == "b"


@pytest.mark.parametrize(("name", "model"), [("b", "b"), ("bee", "b"), ("c", "c")])
def test_one_of_several_is_found_by_id_and_alias(name: str, model: str) -> None:
    assert several().resolve(name).model == model


@pytest.mark.parametrize("name", ["does-not-exist", "default", "baton-toy", "org/b", "B"])
def test_one_of_several_is_not_found_by_anything_else(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"Model '{name}' not found"):
        several().resolve(name)


def test_what_a_model_does_not_state_is_as_the_other_settings_have_it() -> None:
    a, b, c = several(dtype="bfloat16", max_batch_size=5).entries
    assert (a.dtype, b.dtype) == ("bfloat16", "int8")
    assert (a.max_batch_size, c.max_batch_size) == (5, 3)
    assert (a.title, b.title, a.format, c.format) == ("a", "B", None, "GGUF")
    assert (a.kind, c.kind) == ("generate", "embed")


def test_workers_serve_all_models_or_those_that_are_named() -> None:
    assert ids(several().served) == ["a", "b", "c"]
    assert ids(several(worker_models=["c", "bee"]).served) == ["b", "c"]


def of_ollama(**settings: Any) -> ModelCatalog:
    return ModelCatalog(Settings(model_backend="ollama", **settings))


@pytest.mark.parametrize("name", ["llama2", "llama2:latest"])
def test_a_model_of_ollama_is_found_with_and_without_the_tag_that_nobody_has_to_say(
    name: str,
) -> None:
    models = of_ollama(ollama_model=name)
    assert (models.default.model, models.default.source) == ("llama2", "llama2")
    for called in ("llama2", "llama2:latest", "default", None):
        assert models.resolve(called) is models.default


def test_a_model_of_ollama_with_another_tag_is_called_by_both_parts() -> None:
    assert of_ollama(ollama_model="llama3:70b").default.names == ("default",)


def test_models_that_were_found_are_offered_after_the_configured_one() -> None:
    models = of_ollama()
    models.note_found({"mistral", "llama2", "llama3:70b"})
    assert models.models == ["llama2", "llama3:70b", "mistral"]
    assert models.resolve("mistral:latest").source == "mistral"
    assert models.resolve("mistral").backend == "ollama"


def test_a_model_that_is_found_no_more_is_not_offered_any_more() -> None:
    models = of_ollama()
    models.note_found({"mistral"})
    models.note_found(frozenset())
    assert models.models == ["llama2"]
    with pytest.raises(ModelNotFoundError):
        models.resolve("mistral")


@pytest.mark.parametrize(
    ("settings", "finds"),
    [
        ({}, True),
        ({"worker_models": ["llama2"]}, False),
        ({"models": '[{"id": "a", "source": "llama2"}]'}, False),
        ({"model_backend": "transformers"}, False),
    ],
)
def test_models_are_looked_for_where_the_operator_names_none(
    settings: dict[str, Any], finds: bool
) -> None:
    assert Settings(**({"model_backend": "ollama"} | settings)).finds_models == finds


def test_a_model_of_several_may_be_ollamas() -> None:
    models = of_ollama(
        models='[{"id": "toy", "source": "baton-toy", "backend": "transformers"},'
        ' {"id": "big", "source": "llama3:70b"}]',
        ollama_base_url=["http://10.0.0.1:11434/"],
    )
    big = models.resolve("big")
    assert (big.backend, big.source, big.base_urls) == (
        "ollama",
        "llama3:70b",
        ("http://10.0.0.1:11434",),
    )
