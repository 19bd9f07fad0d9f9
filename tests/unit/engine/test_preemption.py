"""A cache that is too small for all makes them slower, and changes no token."""

import random

import pytest

from tests.unit.engine.test_exactness import assert_same

TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, fp32
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2"]


@pytest.fixture
def squeezed(drive):
    """Build an engine whose cache holds so many tokens."""
    return lambda loaded, num_tokens, **extra: drive(
        loaded, cache_bytes=num_tokens * TOKEN_BYTES, **extra
    )


def prompts(num, seed=5):
    rng = random.Random(seed)
    return [[rng.randrange(2, 250) for _ in range(rng.randint(1, 30))] for _ in range(num)]


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_that_give_way_get_generates_tokens_all_the_same(
    family, model_of, squeezed, ask, generate, usual
):
    loaded = model_of(family)
    requests = [ask(str(i), ids, max_tokens=20) for i, ids in enumerate(prompts(10))]
    driven = squeezed(loaded, 70, prefill_budget_tokens=16)
    driven.add(*requests).finish()
    assert driven.engine.num_preempted > 0
    for request in requests:
        answer = driven[request.request_id]
        assert_same(usual(loaded), request, answer.ids, generate(loaded, request))


def test_a_seeded_draw_is_the_same_after_giving_way(llama, drive, squeezed, ask):
    hot = {"temperature": 1.3, "top_p": 0.95, "frequency_penalty": 0.3, "max_tokens": 24}
    requests = [ask(str(i), ids, seed=i, **hot) for i, ids in enumerate(prompts(6))]
    calm, tight = drive(llama).add(*requests).finish(), squeezed(llama, 60).add(*requests).finish()
    assert (calm.engine.num_preempted, tight.engine.num_preempted > 0) == (0, True)
    for request in requests:
        assert tight[request.request_id].ids == calm[request.request_id].ids
        assert tight[request.request_id].text == calm[request.request_id].text


def test_every_step_stays_within_the_cache(llama, squeezed, ask):
    driven = squeezed(llama, 64)
    driven.add(*(ask(str(i), ids, max_tokens=20) for i, ids in enumerate(prompts(8))))
    while driven.engine.has_work:
        driven.step()
        cache = driven.engine.cache
        assert cache.used_tokens + cache.reusable_tokens <= cache.capacity_tokens == 64
        assert cache.size_bytes <= 64 * TOKEN_BYTES
    assert cache.evictions > 0


def test_the_last_of_the_lowest_class_gives_way(llama, squeezed, ask):
    driven = squeezed(llama, 50)
    for name, priority in [("low", 2), ("first", 1), ("second", 1), ("high", 0)]:
        driven.add(ask(name, [ord(name[0])] * 9, priority=priority, max_tokens=15))
    order = []
    while driven.engine.has_work:
        order += [output.request_id for output in driven.step() if output.finish_reason]
    assert order == ["high", "first", "second", "low"]


def test_a_sequence_that_gave_way_goes_on_before_those_that_came_later(llama, squeezed, ask):
    driven = squeezed(llama, 40, max_batch_size=2)
    driven.add(*(ask(str(i), [50 + i] * 10, max_tokens=20) for i in range(5)))
    order = []
    while driven.engine.has_work:
        order += [output.request_id for output in driven.step() if output.finish_reason]
    assert driven.engine.num_preempted > 0
    assert order == sorted(order)


def test_time_spent_giving_way_is_not_execution_time(llama, squeezed, ask, clock):
    driven = squeezed(llama, 40, max_batch_size=2)
    driven.add(ask("a", [5] * 10, max_tokens=25), ask("b", [6] * 10, max_tokens=25))
    num_steps = 0
    while driven.engine.has_work:
        driven.step()
        clock.now += 1
        num_steps += 1
    assert driven.engine.num_preempted == 1
    # Each ran in 25 steps, the second of which ends with the last one.
    assert driven["a"].timings.used_s == driven["b"].timings.used_s == 24
    assert driven["b"].timings.decode_s == num_steps - 1 > 24


def test_a_sequence_that_gave_way_may_be_aborted_and_may_time_out(llama, squeezed, ask, clock):
    driven = squeezed(llama, 36, max_batch_size=3)
    driven.add(
        ask("a", [5] * 10, max_tokens=20),
        ask("b", [6] * 10, max_tokens=20, time_limit_s=5.0),
        ask("c", [7] * 10, max_tokens=20),
    )
    while driven.engine.num_preempted < 2:
        driven.step()
    driven.engine.abort("c", "cancelled")
    driven.step()
    assert driven["c"].reason == "cancelled"
    clock.now += 60
    driven.step()
    assert driven["b"].reason is None, "it waits"
    driven.finish()
    assert (driven["a"].reason, driven["b"].reason) == ("length", "length")


def test_a_request_that_could_never_fit_is_refused(llama, squeezed, ask):
    driven = squeezed(llama, 40)
    assert driven.engine.context_length == 40
    driven.add(ask("a", [5] * 30, max_tokens=11), ask("b", [5] * 30, max_tokens=10)).finish()
    assert driven["a"].last.error_code == "invalid_request"
    assert "context of 40 tokens" in driven["a"].last.error
    assert driven["b"].reason == "length"
