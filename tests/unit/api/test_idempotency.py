from __future__ import annotations

from typing import Any

import pytest

from api.idempotency import IdempotencyKey, key_of
from api.schemas import GenerateRequest
from common.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        (["abc"], "abc"),
        (['"abc"'], "abc"),
        (['  "abc"\t'], "abc"),
        (["8e03978e-40d5-43dd-bc93-6894a57f9324"], "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (["a b, c;d=e"], "a b, c;d=e"),
        (['"a b, c;d=e"'], "a b, c;d=e"),
        ([r'"a\"b\\c"'], 'a"b\\c'),
        ([r"a\b"], r"a\b"),
        (["!~"], "!~"),
        (['"!#[]~"'], "!#[]~"),
        (["a", '"a"', "a"], "a"),
        (["k" * 255], "k" * 255),
        (['"' + r"\"" * 255 + '"'], '"' * 255),
    ],
)
def test_a_key_is_the_same_quoted_bare_or_sent_twice(headers: list[str], key: str | None) -> None:
    assert key_of(headers) == key


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([""], "empty"),
        (['""'], "empty"),
        (["  "], "empty"),
        (['"  "'], "empty"),
        (["k" * 256], "at most 255 characters; got 256"),
        (['"' + "k" * 256 + '"'], "at most 255"),
        (["caf\u00e9"], "printable ASCII"),
        (["a\x7fb"], "printable ASCII"),
        (["a\tb"], "printable ASCII"),
        (['"a\x01"'], "printable ASCII"),
        (['"abc'], "quotes"),
        (['abc"'], "quotes"),
        (['a"b"c'], "quotes"),
        (['"'], "quotes"),
        (['"a"b"'], "quotes"),
        (['"a\\"'], "quotes"),
        ([r'"a\b"'], "quotes"),
        (['"a";b=1'], "quotes"),
        (['"a", "a"'], "quotes"),
        (["a", "b"], "different"),
        (["a", ""], "empty"),
    ],
)
def test_a_malformed_key_is_refused_with_what_is_wrong(headers: list[str], problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        key_of(headers)
    assert caught.value.param == "Idempotency-Key"


def request_hash(path: str = "/generate", **body: Any) -> str:
    request = GenerateRequest.model_validate(body)
    return IdempotencyKey("k", path).of(request).request_hash


SAME = [
    ({"prompt": "a", "top_k": 3, "seed": 1}, {"seed": 1, "prompt": "a", "top_k": 3}),
    ({"prompt": "a", "temperature": 1}, {"prompt": "a", "temperature": 1.0}),
    ({"prompt": "a"}, {"prompt": "a", "temperature": None, "priority": "normal", "top_k": 0}),
    ({"prompt": "a", "stop": "b"}, {"prompt": "a", "stop": ["b"]}),
    (
        {"prompt": "a", "metadata": {"b": "1", "c": "2"}},
        {"metadata": {"c": "2", "b": "1"}, "prompt": "a"},
    ),
    (
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"content": "a", "role": "user"}]},
    ),
]
OTHER = [
    ({"prompt": "a"}, {"prompt": "a "}),
    ({"prompt": "a"}, {"messages": [{"role": "user", "content": "a"}]}),
    ({"prompt": "a"}, {"prompt": "a", "raw": True}),
    ({"prompt": "a"}, {"prompt": "a", "seed": 0}),
    ({"prompt": "a"}, {"prompt": "a", "temperature": 0.7}),
    ({"prompt": "a"}, {"prompt": "a", "user_id": "u"}),
    ({"prompt": "a"}, {"prompt": "a", "priority": "low"}),
    ({"prompt": "a", "stop": ["b", "c"]}, {"prompt": "a", "stop": ["c", "b"]}),
    (
        {"messages": [{"role": "user", "content": c} for c in "ab"]},
        {"messages": [{"role": "user", "content": c} for c in "ba"]},
    ),
    ({"prompt": "a", "metadata": {"b": "c"}}, {"prompt": "a", "metadata": {"c": "b"}}),
]


@pytest.mark.parametrize(("one", "two"), SAME)
def test_a_request_is_the_same_however_it_is_written(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert request_hash(**one) == request_hash(**two)


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_a_request_is_another_where_it_asks_for_something_else(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert request_hash(**one) != request_hash(**two)


def test_a_later_versions_new_field_leaves_old_requests_the_same() -> None:
    class Later(GenerateRequest):
        new_field: int = 3

    key = IdempotencyKey("k", "/generate")
    assert key.of(Later(prompt="a")) == key.of(GenerateRequest(prompt="a"))


def test_the_same_body_at_another_address_is_another_request() -> None:
    assert request_hash(prompt="a") != request_hash("/other", prompt="a")


def test_any_key_makes_a_short_name_of_its_own() -> None:
    body = GenerateRequest(prompt="a")
    hashes = {IdempotencyKey(k, "/").of(body).key_hash for k in ("a", "A", "k" * 255, "a:b c")}
    assert len(hashes) == 4
    assert {len(key_hash) for key_hash in hashes} == {32}
