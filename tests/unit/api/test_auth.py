from __future__ import annotations

import hashlib

import pytest

from api.auth import KeyRing, same_token


def test_a_key_is_known_by_the_beginning_of_its_hash() -> None:
    ring = KeyRing(["one", "two"])
    assert ring.key_id("two") == hashlib.sha256(b"two").hexdigest()[:16]


@pytest.mark.parametrize("key", ["", "on", "one ", "ONE", "one\udcff"])
def test_a_key_that_is_not_exactly_one_of_ours_is_unknown(key: str) -> None:
    assert KeyRing(["one", "two"]).key_id(key) is None


def test_a_token_is_the_same_only_if_all_of_it_is() -> None:
    assert same_token("abc", "abc")
    assert not same_token("ab", "abc")
    assert not same_token("", "abc")
