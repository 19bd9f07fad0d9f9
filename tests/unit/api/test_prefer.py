from __future__ import annotations

import pytest

from api.prefer import wait_of
from common.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([""], None),
        (["respond-async"], None),
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait"], 60),
        (["wait="], 60),
        (['wait=""'], 60),
        (['wait="10"'], 10),
        (["WAIT = 10"], 10),
        (["wait=60"], 60),
        (["wait=61"], 60),
        (["wait=" + "9" * 5000], 60),
        (["wait=00007"], 7),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10;foo=bar, wait=20"], 10),
        (['foo="a, wait=5"; x, wait=10'], 10),
        (["handling=lenient, wait=10, respond-async"], 10),
        (["waiting=10"], None),
    ],
)
def test_wait_is_found_among_the_preferences(headers: list[str], seconds: int | None) -> None:
    assert wait_of(headers) == seconds


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "1e3", "0x10", "²", '"a"'])
def test_a_wait_of_no_whole_number_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="whole number"):
        wait_of([f"wait={value}"])
