"""How often reapers look."""

from __future__ import annotations

import pytest
import redis

from common.reaping import Reaping
from common.settings import Settings
from worker.leases import BEATS_PER_LEASE


@pytest.mark.parametrize("lease_s", [1.0, 4.0, 15.0, 3600.0])
def test_an_outage_is_noticed_before_a_lease_can_pass_in_it(lease_s: float) -> None:
    reaping = Reaping(redis.Redis(), Settings(lease_s=lease_s))
    # A lease was renewed at the latest one beat before the outage began.
    shortest_left_s = lease_s - lease_s / BEATS_PER_LEASE
    assert 3 * reaping.period_s < shortest_left_s
