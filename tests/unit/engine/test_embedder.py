"""Vectors of tiny models against transformers' own forward with pooling by hand; in fp32."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from tests.tiny_embedder import FAMILIES, POSITIONS, SIZE, VOCAB, write_tiny_embedder
from tests.tiny_model import write_tiny_model
from worker.engine.embedder import Embedder, load_embedder, similar
from worker.engine.errors import ModelLoadError

TOLERANCE = 1e-5
MEAN = {"word_embedding_dimension": SIZE, "pooling_mode_mean_tokens": True}


def load(path: Path, **options: Any) -> Embedder:
    return load_embedder(str(path), **{"device": "cpu", "dtype": "float32"} | options)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelLoadError) as raised:
        load(path, **options)
    return str(raised.value)


def random_rows(*lengths: int) -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(3, VOCAB) for _ in range(length)] for length in lengths]


def hidden(path: Path, ids: Sequence[int]) -> Tensor:
    """The last hidden states of one input alone, by transformers."""
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        states: Tensor = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return states


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_the_scaled_mean_where_the_folder_says_nothing(
    tmp_path: Path, family: str
) -> None:
    path = write_tiny_embedder(tmp_path, family)
    [ids] = random_rows(9)
    mean = hidden(path, ids).mean(0)
    assert_close(load(path).embed([ids])[0], mean / mean.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_the_same_alone_and_in_any_batch(tmp_path: Path, family: str) -> None:
    embedder = load(write_tiny_embedder(tmp_path, family, pooling=MEAN, modules=MODULES))
    rows = random_rows(1, 7, 8, 9, 16, 30, 31, 60, 2, 64)
    alone = torch.cat([embedder.embed([row]) for row in rows])
    assert_close(embedder.embed(rows), alone)
    assert_close(embedder.embed(rows[::-1]), alone.flip(0))
    assert float((alone[1] - alone[2]).abs().max()) > 0.01  # they do differ


MODULES = ("Transformer", "Pooling")


@pytest.mark.parametrize(
    ("pooling", "position"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 0),
        ({"pooling_mode_lasttoken": True}, -1),
        ({"pooling_mode": "cls"}, 0),
        ({"pooling_mode": "lasttoken"}, -1),
    ],
)
def test_the_folder_chooses_the_token_whose_state_is_the_vector(
    tmp_path: Path, pooling: dict[str, Any], position: int
) -> None:
    path = write_tiny_embedder(tmp_path, "bert", pooling=pooling, modules=MODULES)
    rows = random_rows(5, 11, 8)
    expected = torch.stack([hidden(path, row)[position] for row in rows])
    assert_close(load(path).embed(rows), expected)


def test_a_mean_is_scaled_only_where_modules_say_normalize(tmp_path: Path) -> None:
    plain = write_tiny_embedder(tmp_path / "a", pooling=MEAN, modules=MODULES)
    scaled = write_tiny_embedder(tmp_path / "b", pooling=MEAN)
    [ids] = random_rows(9)
    mean = hidden(plain, ids).mean(0)
    assert_close(load(plain).embed([ids])[0], mean)
    assert_close(load(scaled).embed([ids])[0], mean / mean.norm())
    assert load(plain).revision != load(scaled).revision


def test_a_generating_checkpoint_makes_embeddings_with_its_own_attention(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    [ids] = random_rows(12)
    embedder = load(path)
    mean = hidden(path, ids).mean(0)
    assert_close(embedder.embed([ids])[0], mean / mean.norm())
    assert (embedder.architecture, embedder.context_length) == ("LlamaModel", 512)


def test_parts_of_a_batch_are_of_similar_length_and_hold_every_input_once() -> None:
    lengths = [1, 100, 2, 60, 50, 49, 7, 3]
    parts = similar(lengths)
    assert sorted(index for part in parts for index in part) == list(range(8))
    for part in parts:
        longest = max(lengths[i] for i in part)
        assert longest <= 2 * min(lengths[i] for i in part)


@pytest.mark.parametrize(
    ("family", "context"),
    # RoBERTa's first position is behind its padding's id.
    [("bert", POSITIONS), ("roberta", POSITIONS - 2), ("mpnet", POSITIONS - 2), ("llama", 66)],
)
def test_the_context_is_as_many_tokens_as_the_model_tells_apart(
    tmp_path: Path, family: str, context: int
) -> None:
    embedder = load(write_tiny_embedder(tmp_path, family))
    assert embedder.context_length == context
    assert embedder.embed(random_rows(context)).shape == (1, SIZE)


def test_the_folder_may_say_a_shorter_context(tmp_path: Path) -> None:
    path = write_tiny_embedder(tmp_path, pooling=MEAN, max_seq_length=20)
    assert load(path).context_length == 20


def test_in_bf16_a_vector_is_near_that_in_fp32(tmp_path: Path) -> None:
    path = write_tiny_embedder(tmp_path)
    [ids] = random_rows(9)
    precise, rough = load(path), load(path, dtype="bfloat16")
    assert rough.precision == "bfloat16"
    assert float(precise.embed([ids])[0] @ rough.embed([ids])[0]) > 0.98


def test_in_int8_a_vector_is_near_that_in_fp32(tmp_path: Path) -> None:
    path = write_tiny_embedder(tmp_path, hidden_size=128)
    [ids] = random_rows(9)
    precise, rough = load(path), load(path, dtype="int8")
    assert rough.precision == "int8"
    assert float(precise.embed([ids])[0] @ rough.embed([ids])[0]) > 0.97


def test_a_checkpoint_without_its_pooler_is_loaded(tmp_path: Path) -> None:
    path = write_tiny_embedder(tmp_path / "a")
    model = AutoModel.from_pretrained(path, add_pooling_layer=False)
    model.save_pretrained(path)
    assert load(path).size == SIZE


def test_what_cannot_be_done_as_the_folder_says_is_refused(tmp_path: Path) -> None:
    several = MEAN | {"pooling_mode_cls_token": True}
    path = write_tiny_embedder(tmp_path / "a", pooling=several)
    assert "pools by" in refusal(path)
    path = write_tiny_embedder(tmp_path / "b", pooling={"pooling_mode_max_tokens": True})
    assert "pooling_mode_max_tokens" in refusal(path)
    dense = ("Transformer", "Pooling", "Dense")
    path = write_tiny_embedder(tmp_path / "c", pooling=MEAN, modules=dense)
    assert "Transformer, Pooling, Dense" in refusal(path)
    (path / "modules.json").write_text("{")
    assert "modules.json cannot be read" in refusal(path)


def test_the_model_may_be_in_a_folder_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_embedder(tmp_path / "whole", pooling=MEAN)
    inner = write_tiny_embedder(path / "0_Transformer", seed=1)
    modules = json.loads((path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (path / "modules.json").write_text(json.dumps(modules))
    [ids] = random_rows(9)
    mean = hidden(inner, ids).mean(0)
    assert_close(load(path).embed([ids])[0], mean / mean.norm())


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    path = write_tiny_embedder(tmp_path)
    (path / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5"]}))
    assert "t5" in refusal(path)
