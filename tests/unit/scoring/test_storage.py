"""Saved scorers: whole or not at all, below SCORERS_DIR, and broken ones are told."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import ScorerError, ScorerNotFoundError
from worker.scoring import storage
from worker.scoring.config import EncoderConfig, NetworkConfig, ScorerConfig
from worker.scoring.score import load_scorer
from worker.scoring.storage import CONFIG, WEIGHTS, ScorerFiles
from worker.scoring.weights import new_network, pack, unpack


def config_of(*models: str) -> ScorerConfig:
    return ScorerConfig(
        encoder=EncoderConfig(
            name="e", revision="r", precision="float32", vector_size=4, context_length=9
        ),
        models=list(models),
        network=NetworkConfig(model_size=2, hidden_size=3),
    )


def save(files: ScorerFiles, name: str = "mine", *models: str) -> Path:
    config = config_of(*(models or ("a", "b")))
    return files.save(name, config, pack(new_network(config)), {"report.json": b"{}"})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScorerFiles:
    monkeypatch.setattr(storage, "BUNDLED_SCORERS", tmp_path / "bundled")
    return ScorerFiles(tmp_path / "scorers")


def test_a_scorer_comes_back_as_it_was_saved(files: ScorerFiles) -> None:
    config = config_of("a", "b", "c")
    network = new_network(config)
    path = files.save("mine", config, pack(network), {"report.svg": b"<svg/>"})
    assert sorted(each.name for each in path.iterdir()) == [CONFIG, WEIGHTS, "report.svg"]
    loaded_config, weights = files.read("mine")
    loaded = unpack(loaded_config, weights)
    assert loaded_config.models == ["a", "b", "c"]
    vectors, models = torch.randn(5, 4), torch.arange(3)
    assert torch.equal(loaded(vectors, models), network.eval()(vectors, models))
    assert not loaded.training


def test_nothing_but_scorers_lies_in_the_folder_after_a_save(files: ScorerFiles) -> None:
    for _ in range(2):
        path = save(files)
    assert [each.name for each in path.parent.iterdir()] == ["mine"]


def test_an_earlier_scorer_is_replaced(files: ScorerFiles) -> None:
    save(files, "mine", "a", "b")
    stamp = files.stamp("mine")
    save(files, "mine", "c", "d")
    assert files.config("mine").models == ["c", "d"]
    assert files.stamp("mine") != stamp


def test_where_folders_cannot_change_places_it_is_replaced_in_two_steps(
    files: ScorerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    save(files, "mine", "a", "b")
    path = save(files, "mine", "c", "d")
    assert files.config("mine").models == ["c", "d"]
    assert [each.name for each in path.parent.iterdir()] == ["mine"]


def test_a_reader_never_meets_half_of_a_scorer_that_is_replaced(files: ScorerFiles) -> None:
    sets = [("a", "b"), ("c", "d", "e")]
    save(files, "mine", *sets[0])
    stop, seen = threading.Event(), set[tuple[str, ...]]()

    def read() -> None:
        while not stop.is_set():
            seen.add(tuple(load_scorer(files, "mine", "cpu").config.models))

    thread = threading.Thread(target=read)
    failures: list[Any] = []
    hook, threading.excepthook = threading.excepthook, failures.append
    try:
        thread.start()
        for index in range(40):
            save(files, "mine", *sets[index % 2])
    finally:
        stop.set()
        thread.join()
        threading.excepthook = hook
    assert failures == []
    assert seen <= set(sets)


def test_a_save_that_fails_leaves_the_earlier_scorer(
    files: ScorerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(files, "mine", "a", "b")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(OSError, match="No space") as caught:
        save(files, "mine", "c", "d")
    assert caught.value.filename == str(path)
    assert files.config("mine").models == ["a", "b"]
    assert [each.name for each in path.parent.iterdir()] == ["mine"]


def test_scorers_that_ship_are_found_and_hidden_by_ones_of_the_same_name(
    files: ScorerFiles, tmp_path: Path
) -> None:
    shipped = ScorerFiles(tmp_path / "bundled")
    save(shipped, "example", "shipped", "too")
    save(files, "mine")
    assert files.names() == ["example", "mine"]
    assert files.config("example").models == ["shipped", "too"]
    save(files, "example", "my", "own")
    assert files.names() == ["example", "mine"]
    assert files.config("example").models == ["my", "own"]


def test_what_is_not_there_is_not_found(files: ScorerFiles) -> None:
    assert files.names() == []
    for call in (files.read, files.config, files.stamp, files.find):
        with pytest.raises(ScorerNotFoundError, match="'dense_network/none' not found"):
            call("none")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../a", ".hidden", "a" * 65, "a\0", "a b"])
def test_a_name_with_tricks_is_refused(files: ScorerFiles, name: str) -> None:
    with pytest.raises(ValueError, match="name is made of"):
        files.find(name)
    with pytest.raises(ValueError, match="name is made of"):
        save(files, name)


@pytest.mark.parametrize("what", ["folder", CONFIG, WEIGHTS])
def test_a_link_out_of_the_folder_of_scorers_is_refused(
    files: ScorerFiles, tmp_path: Path, what: str
) -> None:
    outside = save(ScorerFiles(tmp_path / "outside"))
    path = save(files)
    if what == "folder":
        os.rename(path, tmp_path / "away")
        path.symlink_to(outside)
    else:
        (path / what).unlink()
        (path / what).symlink_to(outside / what)
    with pytest.raises(ScorerError, match="leads out of SCORERS_DIR"):
        load_scorer(files, "mine", "cpu")


def test_a_link_within_the_folder_of_scorers_is_followed(files: ScorerFiles) -> None:
    path = save(files, "first", "a", "b")
    path.with_name("latest").symlink_to("first")
    assert files.config("latest").models == ["a", "b"]


def _edit(path: Path, **changes: Any) -> None:
    values = json.loads((path / CONFIG).read_text()) | changes
    (path / CONFIG).write_text(json.dumps(values))


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: (path / CONFIG).write_text("{"), "config.json is wrong"),
        (lambda path: _edit(path, models=[]), "models: List should have at least 1 item"),
        (lambda path: _edit(path, models=["a", "a"]), "must all be different"),
        (lambda path: _edit(path, version=2), "version: Input should be 1"),
        (lambda path: _edit(path, surprise=1), "surprise: Extra inputs"),
        (lambda path: _edit(path, models=["a", "b", "c"]), "do not fit config.json"),
        (lambda path: (path / WEIGHTS).unlink(), "model.safetensors cannot be read: No such file"),
        (lambda path: os.truncate(path / WEIGHTS, 100), "it may be cut off"),
        (lambda path: (path / WEIGHTS).write_bytes(b""), "it may be cut off"),
        (lambda path: _as_pipe(path / CONFIG), "config.json cannot be read: it is no file"),
        (lambda path: _as_pipe(path / WEIGHTS), "model.safetensors cannot be read: it is no file"),
    ],
)
def test_a_broken_scorer_is_told_in_one_line(files: ScorerFiles, spoil: Any, said: str) -> None:
    spoil(save(files))
    with pytest.raises(
        ScorerError, match=r"^Scorer 'dense_network/mine' cannot be used: "
    ) as caught:
        load_scorer(files, "mine", "cpu")
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_weights_that_are_no_safetensors_are_told(files: ScorerFiles) -> None:
    path = save(files)
    (path / WEIGHTS).write_bytes(b"nothing of the kind")
    digest = storage.hashlib.sha256(b"nothing of the kind").hexdigest()
    _edit(path, weights_sha256=digest)
    with pytest.raises(ScorerError, match=r"do not fit config\.json"):
        load_scorer(files, "mine", "cpu")


def test_weights_that_are_not_finite_are_refused(files: ScorerFiles) -> None:
    config = config_of("a", "b")
    network = new_network(config)
    torch.nn.init.constant_(network.out.weight, torch.inf)
    files.save("mine", config, pack(network), {})
    with pytest.raises(ScorerError, match="not finite"):
        load_scorer(files, "mine", "cpu")
