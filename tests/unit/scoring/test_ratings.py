"""Ratings are read row by row, and what is wrong is told by the number of its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.scoring.ratings import Ratings, RatingsError, read_ratings


def rows(num_prompts: int = 5, models: tuple[str, ...] = ("a", "b")) -> list[dict[str, Any]]:
    return [
        {"prompt": f"prompt {i}", "model": model, "score": 0.5}
        for i in range(num_prompts)
        for model in models
    ]


def read(path: Path, lines: list[Any]) -> Ratings:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file = path / "ratings.jsonl"
    file.write_text("\n".join(texts) + "\n")
    return read_ratings(file)


def test_every_rating_is_at_its_prompt_and_model(tmp_path: Path) -> None:
    ratings = read(tmp_path, [*rows(), {"prompt": "one more", "model": "b", "score": 1}])
    assert ratings.models == ("a", "b")
    assert ratings.prompts == (*(f"prompt {i}" for i in range(5)), "one more")
    assert ratings.scores_PM[0].tolist() == [0.5, 0.5]
    assert ratings.scores_PM[5].isnan().tolist() == [True, False]
    assert ratings.scores_PM[5, 1] == 1


def test_several_ratings_of_one_prompt_and_model_count_as_their_mean(tmp_path: Path) -> None:
    more = [{"prompt": "prompt 0", "model": "a", "score": score} for score in (0.0, 1.0, 1.0)]
    assert read(tmp_path, rows() + more).scores_PM[0, 0] == pytest.approx(2.5 / 4)


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    assert len(read(tmp_path, ["", *rows(), "  "]).prompts) == 5


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "p"', "no valid JSON"),
        ("[1]", "expected an object"),
        ({"prompt": "p", "model": "a"}, "score is missing"),
        ({"model": "a", "score": 1}, "prompt is missing"),
        ({"prompt": "p", "model": "a", "score": 1.5}, "from 0 to 1; got 1.5"),
        ({"prompt": "p", "model": "a", "score": -0.1}, "from 0 to 1; got -0.1"),
        ('{"prompt": "p", "model": "a", "score": NaN}', "from 0 to 1; got NaN"),
        ({"prompt": "p", "model": "a", "score": True}, "from 0 to 1; got true"),
        ({"prompt": "p", "model": "a", "score": "1"}, 'from 0 to 1; got "1"'),
        ({"prompt": " ", "model": "a", "score": 1}, "prompt must be a text"),
        ({"prompt": "p", "model": 3, "score": 1}, "model must be a text"),
        ({"prompt": "p", "model": "m" * 201, "score": 1}, "200 characters"),
        ('{"prompt": "\\ud800", "model": "a", "score": 1}', "surrogates"),
    ],
)
def test_a_wrong_row_is_told_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(RatingsError, match=r"^line 11: ") as caught:
        read(tmp_path, [*rows(), row])
    assert said in str(caught.value)


def test_many_wrong_rows_are_told_in_part(tmp_path: Path) -> None:
    with pytest.raises(RatingsError) as caught:
        read(tmp_path, ["x"] * 30)
    assert len(str(caught.value).splitlines()) == 11
    assert str(caught.value).endswith("and 20 more lines")


def test_one_model_alone_cannot_be_ranked(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match="at least 2 models: 'a'; got 1"):
        read(tmp_path, rows(models=("a",)))


def test_too_few_prompts_leave_none_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match="at least 5 different prompts"):
        read(tmp_path, rows(4))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match="cannot be read: No such file"):
        read_ratings(tmp_path / "none.jsonl")


def test_an_empty_file_has_no_models(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match="at least 2 models; got 0"):
        read(tmp_path, [])


def test_a_byte_order_mark_before_the_first_row_is_passed_over(tmp_path: Path) -> None:
    first, *others = [json.dumps(row) for row in rows()]
    assert read(tmp_path, ["\ufeff" + first, *others]).prompts[0] == "prompt 0"


def test_a_row_that_is_no_utf_8_is_told_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "ratings.jsonl"
    text = "\n".join(json.dumps(row) for row in rows())
    file.write_bytes(text.encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(RatingsError, match=r"^line 11: no UTF-8"):
        read_ratings(file)
