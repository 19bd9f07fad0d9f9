"""Batches are shared by the jobs that wait."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.turns import Turns


def deal_all(turns: Turns, budget: int) -> list[list[tuple[str, int]]]:
    batches = []
    while turns:
        batches.append(turns.deal(budget))
    return batches


def test_small_jobs_run_together() -> None:
    turns = Turns()
    for name in "abc":
        turns.add(name, [10])
    assert sorted(turns.deal(30)) == [("a", 0), ("b", 0), ("c", 0)]
    assert len(turns) == 0


def test_a_small_job_is_in_the_next_batch_however_many_inputs_a_large_one_has() -> None:
    turns = Turns()
    turns.add("large", [10] * 2048)
    turns.deal(100)
    turns.add("small", [10])
    batch = turns.deal(100)
    assert ("small", 0) in batch
    assert len(batch) == 10


def test_two_large_jobs_share_each_batch_by_tokens_and_not_by_inputs() -> None:
    turns = Turns()
    turns.add("long", [20] * 50)
    turns.add("short", [5] * 50)
    counts = Counter(name for name, _ in turns.deal(200))
    assert counts == {"long": 5, "short": 20}


def test_an_input_longer_than_the_budget_makes_a_batch_of_its_own() -> None:
    turns = Turns()
    turns.add("a", [500, 3])
    assert turns.deal(100) == [("a", 0)]
    assert turns.deal(100) == [("a", 1)]


def test_a_long_input_is_not_passed_over_for_ever() -> None:
    turns = Turns()
    turns.add("small", [40] * 100)
    turns.add("long", [100, 100])
    found = [turns.deal(100) for _ in range(4)]
    assert sum(("long", i) in batch for batch in found for i in (0, 1)) == 2


def test_of_a_job_that_was_removed_nothing_is_dealt() -> None:
    turns = Turns()
    turns.add("a", [10, 10])
    turns.add("b", [10])
    turns.remove("a")
    turns.remove("unknown")
    assert deal_all(turns, 100) == [[("b", 0)]]


@given(
    st.dictionaries(
        st.sampled_from("abcde"), st.lists(st.integers(1, 60), min_size=1, max_size=20), max_size=5
    ),
    st.integers(1, 100),
)
def test_every_input_is_dealt_once_within_the_budget(
    jobs: dict[str, list[int]], budget: int
) -> None:
    turns = Turns()
    for name, lengths in jobs.items():
        turns.add(name, lengths)
    batches = deal_all(turns, budget)
    dealt = [pair for batch in batches for pair in batch]
    assert sorted(dealt) == sorted((n, i) for n, ls in jobs.items() for i in range(len(ls)))
    for batch in batches:
        assert len(batch) == 1 or sum(jobs[name][i] for name, i in batch) <= budget


def test_a_job_has_no_more_inputs_in_a_batch_than_it_asked_for() -> None:
    turns = Turns()
    turns.add("a", [1] * 5, most=2)
    turns.add("b", [1] * 5)
    batches = []
    while turns:
        batches.append(Counter(name for name, _ in turns.deal(100)))
    assert [batch["a"] for batch in batches] == [2, 2, 1]
    assert [batch["b"] for batch in batches] == [5, 0, 0]
