"""The scorer in memory: kept, replaced with its files, and kept where these have become broken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from common.errors import ScorerError, ScorerNotFoundError
from tests.tiny_embedder import write_tiny_embedder
from tests.tiny_scorer import write_tiny_scorer
from worker.scoring import shelf as module
from worker.scoring.shelf import ScorerShelf
from worker.scoring.storage import CONFIG, ScorerFiles


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_embedder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def shelf(tmp_path: Path) -> ScorerShelf:
    return ScorerShelf(ScorerFiles(tmp_path))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was loaded, each time."""
    names: list[str] = []
    load = module.load_scorer

    def counted(files: ScorerFiles, name: str, device: str) -> object:
        names.append(name)
        return load(files, name, device)

    monkeypatch.setattr(module, "load_scorer", counted)
    return names


def test_the_scorer_that_was_used_last_is_not_loaded_again(
    shelf: ScorerShelf, tmp_path: Path, encoder: Path, loads: list[str]
) -> None:
    write_tiny_scorer(tmp_path, encoder, "one")
    write_tiny_scorer(tmp_path, encoder, "two")
    first = shelf.get("one", "cpu")
    assert shelf.get("one", "cpu") is first
    shelf.get("two", "cpu")
    assert shelf.get("one", "cpu") is not first
    assert loads == ["one", "two", "one"]


def test_a_scorer_that_was_replaced_is_loaded_again(
    shelf: ScorerShelf, tmp_path: Path, encoder: Path
) -> None:
    write_tiny_scorer(tmp_path, encoder, models=("a", "b"))
    shelf.get("tiny", "cpu")
    write_tiny_scorer(tmp_path, encoder, models=("c", "d"))
    assert shelf.get("tiny", "cpu").config.models == ["c", "d"]


def test_where_its_files_have_become_broken_the_one_in_memory_is_used_and_the_log_says_so(
    shelf: ScorerShelf, tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiny_scorer(tmp_path, encoder, models=("a", "b"))
    first = shelf.get("tiny", "cpu")
    (path / CONFIG).write_text("{")
    with caplog.at_level(logging.ERROR):
        assert shelf.get("tiny", "cpu") is first
    assert "'dense_network/tiny' cannot be used: config.json is wrong" in caplog.text
    write_tiny_scorer(tmp_path, encoder, models=("c", "d"))
    assert shelf.get("tiny", "cpu").config.models == ["c", "d"]


def test_a_broken_scorer_that_is_not_in_memory_is_an_error_and_leaves_the_other_one_there(
    shelf: ScorerShelf, tmp_path: Path, encoder: Path
) -> None:
    write_tiny_scorer(tmp_path, encoder, "good")
    (write_tiny_scorer(tmp_path, encoder, "bad") / CONFIG).write_text("{")
    good = shelf.get("good", "cpu")
    with pytest.raises(ScorerError, match="dense_network/bad"):
        shelf.get("bad", "cpu")
    assert shelf.get("good", "cpu") is good


def test_a_scorer_that_is_gone_is_not_found(
    shelf: ScorerShelf, tmp_path: Path, encoder: Path
) -> None:
    path = write_tiny_scorer(tmp_path, encoder)
    shelf.get("tiny", "cpu")
    path.rename(tmp_path / "away")
    with pytest.raises(ScorerNotFoundError):
        shelf.get("tiny", "cpu")
