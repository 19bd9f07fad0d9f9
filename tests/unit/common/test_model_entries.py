"""What `MODELS` may hold, and what is said of what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.model_entries import BUNDLED_DIR, read_entries

TWO = [
    {"id": "small", "source": "baton-toy", "aliases": ["s"], "max_batch_size": 2},
    {"id": "org/big-1.5", "path": "/models/big", "dtype": "bfloat16", "kv_cache_gib": 2},
]
TWO_AS_TOML = """
[[models]]
id = "small"
source = "baton-toy"
aliases = ["s"]
max_batch_size = 2

[[models]]
id = "org/big-1.5"
path = "/models/big"
dtype = "bfloat16"
kv_cache_gib = 2
"""


def problem(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(ValueError, match=r".") as caught:
        read_entries(text)
    return str(caught.value)


def model(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "source": "baton-toy"} | fields


def test_json_text_a_json_file_and_a_toml_file_say_the_same(tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "models.json", tmp_path / "models.toml"
    as_json.write_text(json.dumps({"models": TWO}))
    as_toml.write_text(TWO_AS_TOML)
    small, big = read_entries(json.dumps(TWO))
    assert (small.id, small.aliases, small.max_batch_size) == ("small", ["s"], 2)
    assert (big.id, big.path, big.dtype, big.kv_cache_gib) == (
        *("org/big-1.5", "/models/big", "bfloat16", 2),
    )
    assert read_entries(str(as_json)) == read_entries(str(as_toml)) == (small, big)


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"source": "baton-toy"}, str(BUNDLED_DIR)),
        ({"source": "org/model"}, "org/model"),
        ({"source": "./here/model"}, "./here/model"),
        ({"path": "here/model"}, "./here/model"),
        ({"path": "/there/model"}, "/there/model"),
    ],
)
def test_a_source_is_a_hub_name_or_a_path_and_a_path_is_always_one(
    fields: dict[str, str], location: str
) -> None:
    [entry] = read_entries(json.dumps([{"id": "a", **fields}]))
    assert entry.where.location == location


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ('[{"id" "a"}]', ["no valid JSON", "line 1, column 8"]),
        ("[" * 100_000, ["nested too deeply"]),
        ("models.yaml", ["JSON text", ".json or .toml"]),
        ("/no/such/file.toml", ["cannot be read", "No such file"]),
        ([], ["holds no model", "MODEL_NAME"]),
        ({"model": []}, ["`models` alone", "'model'"]),
        ({"models": 5}, ["a list of models", "int"]),
        ([5], ["model 1: must be an object; got 5"]),
        ([model(), model(id="b", kidn="embed")], ["model 2 ('b')", "'kidn'", "kind"]),
        ([{"source": "x"}], ["model 1: id is missing"]),
        ([{"id": "a"}], ["model 1 ('a')", "source", "path"]),
        ([model(path="/x")], ["model 1 ('a')", "source", "path"]),
        ([model(id="a b")], ["id must be made of", "'a b'"]),
        ([model(id="a:b")], ["id must be made of"]),
        ([model(id="../a")], ["id must be made of"]),
        ([model(id="a//b")], ["id must be made of"]),
        ([model(id="a/")], ["id must be made of"]),
        ([model(id="a" * 201)], ["200 characters"]),
        ([model(kind="chat")], ['kind must be one of generate, embed; got "chat"']),
        ([model(dtype="int3")], ["dtype must be one of auto, float32, ", '; got "int3"']),
        (
            [model(backend="magic")],
            ['backend must be one of transformers, openai, ollama; got "magic"'],
        ),
        ([model(max_batch_size=0)], ["max_batch_size must be at least 1; got 0"]),
        ([model(max_batch_size="3")], ['max_batch_size must be a whole number; got "3"']),
        ([model(cost=float("inf"))], ["cost must be a finite number; got Infinity"]),
        ([model(source="")], ['source must not be empty; got ""']),
        ([model(backend="openai", base_url=["http://u:pw@a", 3])], ["base_url must be an address"]),
        ([model(kv_cache_gib=0)], ["kv_cache_gib must be above 0; got 0"]),
        ([model(aliases="s")], ['aliases must be a list; got "s"']),
        ([model(aliases=["x,y"])], ["aliases[0] must be printable", "without commas"]),
        ([model(), model()], ["'a' stands twice for 'a'"]),
        ([model(), model(id="b", aliases=["a"])], ["'a' names both 'a' and 'b'"]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(value: Any, parts: list[str]) -> None:
    message = problem(value)
    assert all(part in message for part in parts), message
    assert "Input" not in message
    assert "pw" not in message
    assert "\n" not in message


def test_toml_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[[models]]\nid = \n")
    message = problem(str(path))
    assert "no valid TOML" in message
    assert "line 2" in message
