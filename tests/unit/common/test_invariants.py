"""What the checker knows, without a Redis."""

from __future__ import annotations

import pytest

from common import keys
from common.invariants import Kind, Violation
from common.invariants.keyspace import FAMILIES, PASSING, SINGLES, family_of, model_of_line

CHANNELS = {keys.BELL, keys.CANCEL}


def test_every_key_of_the_service_is_known_with_its_type() -> None:
    named = {
        value
        for name, value in vars(keys).items()
        if name.isupper() and isinstance(value, str) and value.startswith("baton:")
    }
    assert named - CHANNELS == FAMILIES.keys() | SINGLES.keys()
    assert set(PASSING) <= FAMILIES.keys()


@pytest.mark.parametrize(
    ("key", "family"),
    [
        (keys.job("1"), keys.JOB),
        (keys.worker("w"), keys.WORKER),
        (keys.WORKERS, keys.WORKERS),
        (keys.ready("m", "low"), keys.READY),
        (keys.ready("org/a:b", "high"), keys.READY),
        (keys.permits("org/a:b"), keys.PERMITS),
        (keys.JOB, None),
        (keys.READY + "low", None),
        (keys.ready("m", "urgent"), None),
        (keys.ready("", "low"), None),
        (keys.bell("1"), None),
        ("baton:workers2", None),
        ("baton:", None),
    ],
)
def test_a_key_belongs_to_one_family_or_is_unknown(key: str, family: str | None) -> None:
    assert family_of(key) == family


def test_a_models_name_may_hold_a_colon() -> None:
    assert model_of_line(keys.ready("org/a:b", "high")) == "org/a:b"


def test_a_violation_is_one_line_whatever_the_key_holds() -> None:
    violation = Violation(Kind.UNKNOWN_KEY, "baton:a\nb", "a known key", "a string")
    assert len(str(violation).splitlines()) == 1
