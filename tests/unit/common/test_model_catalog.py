"""Which models the settings name."""

from __future__ import annotations

from pathlib import Path

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
