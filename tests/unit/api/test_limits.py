from __future__ import annotations

import pytest

from api.limits import Limits, go_duration
from common.errors import RateLimitError
from common.job_store import Submitted
from common.settings import Settings


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.017, "17ms"),
        (0.9999, "1000ms"),
        (1, "1s"),
        (1.2, "2s"),
        (59.5, "1m0s"),
        (61, "1m1s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (3661, "1h1m1s"),
    ],
)
def test_a_duration_is_written_as_open_ai_writes_it(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def limits() -> Limits:
    return Limits(Settings(_env_file=None, rate_limit_per_minute=60, rate_limit_burst=10))


def test_after_a_submission_the_rate_is_what_the_script_said() -> None:
    state = limits().submitted(Submitted(1, 7, 3.0))
    assert (state.limit, state.remaining, state.reset_s) == (10, 7, 3.0)


def test_after_a_refusal_the_whole_burst_is_back_after_all_its_intervals() -> None:
    state = limits().refused(RateLimitError("", retry_after_s=0.5))
    assert (state.limit, state.remaining, state.reset_s) == (10, 0, 9.5)
