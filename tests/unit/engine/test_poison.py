"""A prompt that makes the model give no numbers fails alone, whatever it shares with the others."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.engine.drive import Drive
from tests.unit.engine.test_exactness import assert_same
from worker.engine.engine import Engine
from worker.engine.paged_runner import PagedRunner
from worker.engine.slot_runner import SlotRunner

POISON = 299
FAMILIES = ["llama", "qwen3", "mistral", "gemma2", "gpt2"]
RUNNERS = {
    "slots": lambda loaded: SlotRunner(loaded, 4),
    "blocks": lambda loaded: PagedRunner(loaded, 160, block_size=4),
}
MAX_TOKENS = 6
# Long enough for several chunks, and alike from the start on.
SHARED = [7 + i % 90 for i in range(50)]
# Of a prompt: how much it shares, what follows, and whether the poison does so first.
PROMPTS = st.tuples(
    st.integers(0, len(SHARED)), st.lists(st.integers(2, 40), max_size=4), st.booleans()
)
# Requests that arrive one after another, with the steps that are made before each.
ARRIVALS = st.lists(st.tuples(PROMPTS, st.integers(0, 4)), min_size=2, max_size=7)


@pytest.fixture
def poisoned(model_of):
    """The model of a family in which one token is not a number, when it is read and only then."""

    def poison(family):
        loaded = model_of(family)
        model = copy.deepcopy(loaded.model)
        output = model.get_output_embeddings()
        output.weight = torch.nn.Parameter(output.weight.detach().clone())  # its own, if it was not
        model.get_input_embeddings().weight.data[POISON] = float("nan")
        return dataclasses.replace(loaded, model=model)

    return poison


@pytest.fixture
def ask_good(ask):
    # What a good one draws must not be the poison, which would be its own fault.
    return lambda name, ids: ask(
        name, ids, max_tokens=MAX_TOKENS, logit_bias=((POISON, -100.0),), ignore_eos=True
    )


def engine_on(loaded, kind, budget):
    return Drive(
        Engine(
            loaded,
            max_batch_size=4,
            runner=RUNNERS[kind](loaded),
            prefill_budget_tokens=budget,
        )
    )


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@example([((0, [], False), 0), ((50, [34, 40, 15, 17], False), 0)], 5)  # draws the end token
@given(arrivals=ARRIVALS, budget=st.sampled_from([5, 16, 512]))
def test_who_shares_a_beginning_with_a_poisoned_prompt_gets_generates_tokens(
    family, kind, model_of, poisoned, usual, generate, ask_good, arrivals, budget
):
    clean, expected = model_of(family), {}
    driven = engine_on(poisoned(family), kind, budget)
    for index, ((num_shared, rest, is_bad), num_steps) in enumerate(arrivals):
        ids = [*SHARED[:num_shared], *([POISON] if is_bad else []), *rest] or [9]
        request = ask_good(str(index), ids)
        expected[index] = None if is_bad else request
        driven.step(num_steps)
        driven.add(request)
    driven.finish()
    for index, request in expected.items():
        answer = driven[str(index)]
        if request is None:
            assert answer.last.error_code == "non_finite_logits"
        else:
            assert answer.reason == "length", answer.last.error
            expected_ids = generate(clean, request, suppress_tokens=[POISON], eos_token_id=-1)
            assert_same(usual(clean), request, answer.ids, expected_ids)


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("budget", [8, 512])
def test_what_a_poisoned_prompt_read_before_the_poison_stays_of_use(
    kind, budget, poisoned, ask_good
):
    driven = engine_on(poisoned("llama"), kind, budget)
    driven.add(ask_good("first", SHARED)).finish()
    driven.add(ask_good("bad", [*SHARED, POISON, 3])).finish()
    assert driven["bad"].timings.cached_tokens >= len(SHARED) - 4
    driven.add(ask_good("after", [*SHARED, 3])).finish()
    assert driven["after"].timings.cached_tokens >= len(SHARED) - 4
    assert driven["after"].reason == "length"


@pytest.mark.parametrize("kind", RUNNERS)
def test_nothing_after_a_poison_is_kept(kind, poisoned, ask_good):
    driven = engine_on(poisoned("llama"), kind, 8)
    driven.add(ask_good("bad", [POISON, *SHARED])).finish()
    assert driven["bad"].last.error_code == "non_finite_logits"
    cache = driven.engine.cache
    assert (cache.used_tokens, cache.reusable_tokens, cache.size_bytes) == (0, 0, 0)
    driven.add(ask_good("again", [POISON, *SHARED])).finish()
    assert driven["again"].timings.cached_tokens == 0
