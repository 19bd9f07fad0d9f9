"""What a worker tells of its scorers: their cards, and why one cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import RedisUnavailableError
from common.fleet import FleetWriter
from common.model_catalog import CatalogEntry
from common.model_entries import BUNDLED_DIR
from common.scorers import ScorerCard
from tests.tiny_embedder import POSITIONS, write_tiny_embedder
from tests.tiny_scorer import MODELS, write_tiny_scorer
from worker.scoring.roster import ScorerRoster
from worker.scoring.storage import CONFIG, ScorerFiles


class Fleet(FleetWriter):
    """Keeps the cards that were published last."""

    def __init__(self) -> None:
        self.cards: dict[str, ScorerCard] = {}
        self.is_away = False

    def publish_scorers(self, cards: Sequence[ScorerCard]) -> None:
        if self.is_away:
            raise RedisUnavailableError("away")
        self.cards = {card.name: card for card in cards}


class Told:
    """A roster of one folder, with what it told."""

    def __init__(self, root: Path, *entries: CatalogEntry) -> None:
        self.fleet = Fleet()
        self.num_changes = 0
        self.roster = ScorerRoster(ScorerFiles(root), entries, self.fleet, self._changed)

    def _changed(self) -> None:
        self.num_changes += 1

    def look(self) -> dict[str, str | None]:
        """What is told after another look, without the scorer that ships."""
        self.roster.look()
        return {k: v for k, v in self.roster.announced.items() if k != "example"}


def entry(model: str, source: str | Path, kind: str = "generate") -> CatalogEntry:
    return CatalogEntry(model, (), str(source), "transformers", "", model, kind=kind)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_embedder(tmp_path_factory.mktemp("encoder"))


def test_a_scorer_is_told_with_the_model_that_is_its_encoder(tmp_path: Path, encoder: Path) -> None:
    told = Told(tmp_path, entry("other", "other"), entry("mine", encoder))
    write_tiny_scorer(tmp_path, encoder)
    assert told.look() == {"tiny": None}
    assert told.fleet.cards["tiny"] == ScorerCard("tiny", MODELS, encoder.name, "mine", POSITIONS)


def test_a_model_of_kind_embed_comes_before_one_that_generates(
    tmp_path: Path, encoder: Path
) -> None:
    told = Told(tmp_path, entry("talks", encoder), entry("embeds", encoder, "embed"))
    write_tiny_scorer(tmp_path, encoder)
    told.look()
    assert told.fleet.cards["tiny"].served_by == "embeds"


def test_the_scorer_that_ships_is_served_by_the_bundled_model(tmp_path: Path) -> None:
    told = Told(tmp_path / "none", entry("toy", BUNDLED_DIR))
    told.look()
    assert told.roster.announced == {"example": None}
    assert told.fleet.cards["example"].served_by == "toy"


def test_a_scorer_whose_encoder_is_not_served_is_told_with_the_reason(
    tmp_path: Path, encoder: Path
) -> None:
    told = Told(tmp_path, entry("other", "other"))
    write_tiny_scorer(tmp_path, encoder)
    assert "none of the models that are served" in str(told.look()["tiny"])
    assert told.fleet.cards == {}  # another worker, which serves it, publishes the card


def test_a_broken_scorer_is_told_with_the_reason_and_logged_once(
    tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path, entry("mine", encoder))
    (write_tiny_scorer(tmp_path, encoder) / CONFIG).write_text("{")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert "config.json is wrong" in str(told.look()["tiny"])
    assert caplog.text.count("config.json is wrong") == 1
    assert "tiny" not in told.fleet.cards


def test_a_scorer_that_has_become_broken_is_told_as_it_was(tmp_path: Path, encoder: Path) -> None:
    told = Told(tmp_path, entry("mine", encoder))
    path = write_tiny_scorer(tmp_path, encoder)
    told.look()
    (path / CONFIG).write_text("{")
    assert told.look() == {"tiny": None}
    assert told.fleet.cards["tiny"].models == MODELS


def test_a_new_scorer_and_one_that_goes_are_changes_and_a_second_look_is_none(
    tmp_path: Path, encoder: Path
) -> None:
    told = Told(tmp_path, entry("mine", encoder))
    told.look()
    before = told.num_changes
    path = write_tiny_scorer(tmp_path, encoder)
    told.look()
    told.look()
    assert told.num_changes == before + 1
    path.rename(tmp_path / "away")
    assert told.look() == {}
    assert told.num_changes == before + 2


def test_while_redis_is_away_nothing_is_announced_that_gateways_cannot_read(
    tmp_path: Path, encoder: Path
) -> None:
    told = Told(tmp_path, entry("mine", encoder))
    write_tiny_scorer(tmp_path, encoder)
    told.fleet.is_away = True
    with pytest.raises(RedisUnavailableError):
        told.look()
    assert told.roster.announced == {}
    told.fleet.is_away = False
    assert told.look() == {"tiny": None}


def test_a_folder_that_cannot_be_read_takes_back_nothing(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(tmp_path, entry("mine", encoder))
    write_tiny_scorer(tmp_path, encoder)
    told.look()

    def fail(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", fail)
    assert told.look() == {"tiny": None}
