"""What ended jobs add up to, computed by hand."""

from __future__ import annotations

import pytest

from common.tallies import EDGES_US, Histogram, Tally, read_tally, total_of


def histogram(observed: dict[int | str, int], sum_us: int = 0) -> Histogram:
    """Of so many observations in the buckets with these upper edges."""
    fields = {f"queue:{edge}": str(count) for edge, count in observed.items()}
    return read_tally(fields | {"queue:sum": str(sum_us)}).latency("queue")


def test_the_fields_of_the_hash_are_told_apart() -> None:
    tally = read_tally(
        {
            "jobs:completed": "3",
            "jobs:resumed": "1",
            "finish:stop": "2",
            "mood:good": "5",
            "mood": "6",
            "tokens:cached": "20",
            "queue:1000": "2",
            "queue:inf": "1",
            "queue:sum": "7000",
        }
    )
    assert tally.jobs == {"completed": 3, "resumed": 1}
    assert tally.finish == {"stop": 2}
    assert tally.tokens == {"cached": 20}
    assert set(tally.latencies) == {"queue"}, "what a later version counts is passed over"
    queue = tally.latency("queue")
    assert (queue.count, queue.sum_us) == (3, 7000)
    assert queue.counts[EDGES_US.index(1000)] == 2
    assert queue.counts[-1] == 1


def test_what_was_never_observed_has_no_mean_and_no_quantile() -> None:
    none = Tally().latency("decode")
    assert (none.count, none.mean_s, none.quantile_s(0.5)) == (0, None, None)


def test_the_mean_is_exact() -> None:
    assert histogram({1000: 2, 2000: 1}, 3300).mean_s == pytest.approx(0.0011)


@pytest.mark.parametrize(
    ("share", "expected_ms"),
    [
        (0.0, 0.5),  # where the first bucket with anything in it begins
        (0.25, 0.75),  # half of the four in (0.5, 1]
        (0.5, 1.0),
        (0.75, 2.5),  # half of the four in (2, 3]
        (1.0, 3.0),
    ],
)
def test_a_quantile_lies_within_its_bucket_by_its_rank(share: float, expected_ms: float) -> None:
    found = histogram({1000: 4, 3000: 4}).quantile_s(share)
    assert found == pytest.approx(expected_ms / 1000)


def test_the_first_bucket_begins_at_zero() -> None:
    assert histogram({EDGES_US[0]: 2}).quantile_s(0.5) == pytest.approx(EDGES_US[0] / 2e6)


def test_a_quantile_beyond_the_last_edge_is_that_edge() -> None:
    assert histogram({1000: 1, "inf": 9}).quantile_s(0.5) == EDGES_US[-1] / 1e6


def test_an_edge_of_another_version_counts_in_the_bucket_that_holds_it() -> None:
    found = histogram({1500: 2, 2000: 3})
    assert found.counts[EDGES_US.index(2000)] == 5


def test_buckets_for_prometheus_hold_all_that_lies_below_them() -> None:
    cumulative = dict(histogram({1000: 4, 3000: 2, "inf": 1}).cumulative())
    assert [cumulative[le] for le in ("0.0005", "0.001", "0.002", "0.003", "1800.0", "+Inf")] == [
        *(0, 4, 4, 6, 6, 7)
    ]


def test_models_add_up_without_being_changed() -> None:
    fields = {"jobs:failed": "2", "queue:1000": "1", "queue:sum": "900"}
    one, two = read_tally(fields), read_tally(fields)
    total = total_of([one, two])
    assert (total.jobs["failed"], total.latency("queue").sum_us) == (4, 1800)
    assert (one.jobs["failed"], one.latency("queue").count) == (2, 1)
