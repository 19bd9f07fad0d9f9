"""Classes go first, but nobody waits for ever, and a high one need not wait for a low one."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.engine.test_exactness import assert_same
from worker.engine.engine import Engine
from worker.engine.live_sequence import LiveSequence
from worker.engine.scheduler import LEAST_NEW_TOKENS, TURNS_OF_OLDEST, Scheduler
from worker.engine.sequence import Request, SamplingParams

HIGH, NORMAL, LOW = 0, 1, 2
# What each admission finds new in the queue, by class; sequences end as soon as they are admitted.
STREAMS = st.lists(st.lists(st.integers(HIGH, LOW), min_size=1, max_size=3), min_size=80)


class Room:
    """A runner that has room for everybody and runs nothing."""

    def place(self, key, token_ids, *, reuse=True):
        return 0

    def reserve(self, key, num_tokens):
        return True

    def free(self, keys):
        pass


@pytest.fixture
def waiting(llama, make_engine):
    """Build sequences, numbered in order of arrival, that a scheduler can take."""
    table, number = make_engine(llama)._table, iter(range(10**6))

    def build(priority):
        request = Request("x", (5, 6), SamplingParams(max_tokens=5), priority=priority)
        return LiveSequence(next(number), request, table, frozenset(), 0.0)

    return build


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=STREAMS)
def test_whoever_waits_is_admitted_in_time_whatever_arrives(waiting, stream):
    scheduler = Scheduler(1, Room())
    num_ahead, num_since = {}, {}
    for arrivals in stream:
        for priority in arrivals:
            sequence = waiting(priority)
            num_ahead[sequence.key] = sum(1 for _ in scheduler)
            num_since[sequence.key] = 0
            scheduler.add(sequence)
        [(admitted, _)] = scheduler.plan(0.0)
        scheduler.check_integrity()
        scheduler.remove([admitted])
        for key in num_since:
            num_since[key] += 1
        del num_since[admitted.key]
        for key, num in num_since.items():
            assert num < TURNS_OF_OLDEST * (num_ahead[key] + 1)


def test_a_low_one_ends_under_a_stream_of_high_ones(llama, make_engine, ask):
    engine, number = make_engine(llama, max_batch_size=2), iter(range(1000))

    def add_high():
        engine.add(ask(f"high {next(number)}", "fox", priority=HIGH, max_tokens=3))

    engine.add(ask("low", "the quick", priority=LOW, max_tokens=5))
    for _ in range(4):
        add_high()
    ended = []
    while "low" not in ended:
        for output in engine.step():
            if output.finish_reason:
                ended.append(output.request_id)
                add_high()
    assert len(ended) <= 2 * TURNS_OF_OLDEST
    for name in {f"high {i}" for i in range(next(number))} - set(ended):
        engine.abort(name, "cancelled")
    while engine.has_work:
        engine.step()


def test_a_high_one_takes_the_place_of_a_low_one_at_the_next_step(llama, drive, ask):
    driven = drive(llama, max_batch_size=2)
    driven.add(ask("low", "fox", priority=LOW, max_tokens=60))
    driven.add(ask("last", "dog", priority=LOW, max_tokens=60)).step(LEAST_NEW_TOKENS)
    driven.add(ask("high", "the quick", priority=HIGH, max_tokens=4))
    assert [output.request_id for output in driven.step()] == ["low", "high"]
    assert driven.engine.num_preempted == 1
    driven.finish()
    assert driven["high"].timings.queue_s == 0


def test_a_low_one_that_gave_way_goes_on_with_generates_tokens(llama, drive, ask, generate, usual):
    driven = drive(llama, max_batch_size=1)
    low = ask("low", "the quick", priority=LOW, max_tokens=100, ignore_eos=True)
    seeded = ask("seeded", "dog", priority=LOW, max_tokens=50, temperature=1.2, seed=4)
    alone = drive(llama).add(seeded).finish()["seeded"]
    driven.add(low).step(LEAST_NEW_TOKENS)
    for index in range(3):
        driven.add(ask(f"high {index}", "fox", priority=HIGH, max_tokens=3))
        driven.step(LEAST_NEW_TOKENS)
    driven.add(seeded).finish()
    assert driven.engine.num_preempted >= 2
    assert_same(usual(llama), low, driven["low"].ids, generate(llama, low))
    assert driven["seeded"].ids == alone.ids


@pytest.mark.parametrize("priority", [HIGH, NORMAL])
def test_only_low_ones_give_way(llama, drive, ask, priority):
    driven = drive(llama, max_batch_size=1)
    driven.add(ask("first", "fox", priority=priority, max_tokens=60)).step(LEAST_NEW_TOKENS)
    driven.add(ask("high", "dog", priority=HIGH)).finish()
    assert driven.engine.num_preempted == 0


def test_nobody_gives_way_to_a_normal_one(llama, drive, ask):
    driven = drive(llama, max_batch_size=1)
    driven.add(ask("low", "fox", priority=LOW, max_tokens=60)).step(LEAST_NEW_TOKENS)
    driven.add(ask("normal", "dog", priority=NORMAL)).finish()
    assert driven.engine.num_preempted == 0


def test_a_low_one_gets_on_before_it_gives_way_again(llama, make_engine, ask):
    engine, number = make_engine(llama, max_batch_size=1), iter(range(1000))

    def add_high():
        engine.add(ask(f"high {next(number)}", "fox", priority=HIGH, max_tokens=2))

    engine.add(ask("low", "the quick", priority=LOW, max_tokens=100, ignore_eos=True))
    runs, num_in_a_row = [], 0
    is_over = False
    while not is_over:
        for output in engine.step():
            if output.request_id == "low":
                num_in_a_row += 1
                is_over = output.finish_reason is not None
            elif num_in_a_row:
                runs.append(num_in_a_row)
                num_in_a_row = 0
        while engine.num_waiting < 2 and not is_over:
            add_high()
    assert runs
    assert set(runs) == {LEAST_NEW_TOKENS}
    while engine.has_work:
        engine.step()


def test_an_oldest_one_is_not_the_first_to_give_way_to_the_cache(llama, ask, clock):
    token_bytes = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, fp32
    engine = Engine(llama, max_batch_size=3, clock=clock, cache_bytes=48 * token_bytes)
    engine.add(ask("low", [5] * 10, priority=LOW, max_tokens=20))
    number = iter(range(10_000))
    done, gone_by = {}, 0
    while not done.get("low"):
        while engine.num_waiting < 3:
            engine.add(ask(f"{next(number)}", [6] * 10, priority=HIGH, max_tokens=12))
        for output in engine.step():
            done[output.request_id] = output.finish_reason
        engine.check_integrity()
        gone_by = sum(reason is not None for reason in done.values())
        assert gone_by < 4 * TURNS_OF_OLDEST
    assert done["low"] == "length"
