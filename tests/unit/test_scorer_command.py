"""`baton scorer`: train, score and list, without a service."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.main import main
from common.settings import Settings
from models.scorer_recipe.ratings import SKILLS, ratings
from tests.tiny_embedder import write_tiny_embedder
from worker.scoring.offline import score_prompts
from worker.scoring.quality import ranking_accuracy
from worker.scoring.storage import BUNDLED_SCORERS, CONFIG, WEIGHTS, ScorerFiles

MODELS = ["gpt-3.5-turbo", "gpt-4", "claude-2"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DEVICE", "cpu")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_embedder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"{'sum' if i % 2 else 'story'} {i}", "model": m, "score": (i % 2 + k) % 2}
        for i in range(20)
        for k, m in enumerate(MODELS)
    ]
    path = tmp_path / "ratings.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def trained(data: Path, encoder: Path, *flags: str) -> int:
    given = ("--data", str(data), "--name", "mine", "--encoder", str(encoder), "--epochs", "3")
    return main(["scorer", "train", *given, *flags])


def scores(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    capsys.readouterr()
    status = main(["scorer", "score", *flags])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)["scores"]


def test_a_scorer_is_trained_listed_and_scores(
    data: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(data, encoder) == 0
    said = capsys.readouterr()
    assert "saved dense_network/mine in scorers/dense_network/mine" in said.out
    assert "ranking accuracy" in said.out
    assert "3/3" in said.err  # the progress bar's end
    folder = tmp_path / "scorers" / "dense_network" / "mine"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [CONFIG, WEIGHTS, "report.json", "report.svg"]
    assert main(["scorer", "list"]) == 0
    assert f"dense_network/mine\t{encoder}\t{', '.join(MODELS)}" in capsys.readouterr().out
    found = scores(capsys, "--name", "mine", "--prompt", "sum 1", "--prompt", "story 2")
    assert list(found) == MODELS
    assert all(len(row) == 2 and all(0 <= score <= 1 for score in row) for row in found.values())


def test_a_request_is_scored_as_the_same_flags_are(
    data: Path,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert trained(data, encoder) == 0
    body = {"model": "dense_network/mine", "models_to_score": MODELS[1:], "prompts": ["a", "b"]}
    (tmp_path / "body.json").write_text(json.dumps(body))
    flags = ("--name", "mine", "--prompt", "a", "--prompt", "b", "--models", ",".join(MODELS[1:]))
    found = scores(capsys, *flags, "--batch-size", "1")
    assert list(found) == MODELS[1:]
    for given in (str(tmp_path / "body.json"), "-"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(body)))
        for model, row in scores(capsys, "--request", given).items():
            assert row == pytest.approx(found[model], abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--name", "none", "--prompt", "a"), "'dense_network/none' not found"),
        (("--name", "../mine", "--prompt", "a"), "name is made of"),
        (("--name", "example", "--prompt", "a", "--models", "gpt"), "knows: 'coder-small'"),
        (("--name", "example"), "prompts: List should have at least 1 item"),
        (("--name", "example", "--prompt", ""), "prompts.0: String should have at least 1"),
        (("--name", "example", "--prompt", "a", "--batch-size", "1025"), "batch_size: "),
        (("--request", "none.json"), "none.json: No such file"),
    ],
)
def test_what_cannot_be_scored_is_told(
    flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scorer", "score", *flags]) in (1, 2)
    assert said in capsys.readouterr().err


def test_ratings_from_stdin_train_as_those_of_a_file_do(
    data: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path("scorers") / "dense_network" / "mine" / WEIGHTS
    assert trained(data, encoder) == 0
    of_file = weights.read_bytes()
    weights.unlink()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.read_bytes())))
    assert trained(Path("-"), encoder) == 0
    assert weights.read_bytes() == of_file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "a/b"}, "name is made of"),
        ({"data": "none.jsonl"}, "none.jsonl cannot be read"),
        ({"encoder": "./none"}, "The encoder cannot be loaded"),
    ],
)
def test_what_cannot_be_trained_is_told(
    change: dict[str, str],
    said: str,
    data: Path,
    encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"data": str(data), "name": "mine", "encoder": str(encoder)} | change
    assert main(["scorer", "train", *(f"--{k}={v}" for k, v in given.items())]) in (1, 2)
    assert said in capsys.readouterr().err
    assert ScorerFiles(Path("scorers")).names() == ["example"]


def test_a_broken_scorer_is_listed_as_such(
    data: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(data, encoder) == 0
    (Path("scorers") / "dense_network" / "mine" / CONFIG).write_text("{")
    capsys.readouterr()
    assert main(["scorer", "list"]) == 1
    assert "dense_network/mine\tbroken: " in capsys.readouterr().out


def test_a_scorer_of_an_encoder_that_has_changed_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_embedder(tmp_path / "encoder")
    assert trained(data, path) == 0
    write_tiny_embedder(path, seed=1)
    capsys.readouterr()
    assert main(["scorer", "score", "--name", "mine", "--prompt", "a"]) == 1
    assert "another revision of its encoder" in capsys.readouterr().err


# The scorer that ships


def test_the_scorer_that_ships_names_the_best_model_of_prompts_it_has_never_seen() -> None:
    rows = list(ratings(300, seed=2_024))
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    found = score_prompts(Settings(_env_file=None), "example", list(SKILLS), prompts, 128)
    scores_PM = torch.tensor([found[model] for model in SKILLS]).T
    ratings_PM = torch.tensor([row["score"] for row in rows]).view(len(prompts), len(SKILLS))
    assert ranking_accuracy(scores_PM, ratings_PM) >= 0.9
    constants = [ranking_accuracy(row.expand_as(ratings_PM), ratings_PM) for row in torch.eye(4)]
    assert max(constants) < 0.6


def test_the_scorer_that_ships_is_small_and_has_its_report() -> None:
    folder = BUNDLED_SCORERS / "dense_network" / "example"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    report = json.loads((folder / "report.json").read_text())
    assert report["held_out"]["ranking_accuracy"] >= 0.9
    assert report["best_constants"]["ranking_accuracy"] < 0.6
