"""Every way through the engine gives `generate`'s tokens: 56 prompts of each family, each time."""

import dataclasses
import random

import pytest

from tests.unit.engine.test_exactness import assert_same
from tests.unit.engine.test_preemption import TOKEN_BYTES
from worker.engine.slot_runner import SlotRunner

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2"]
NUM_PROMPTS = 56
# How the engine is set up, and how many of a request's tokens were committed before.
WAYS = {
    "one at a time": {"max_batch_size": 1},
    "together": {"max_batch_size": 16},
    "small chunks": {"max_batch_size": 5, "prefill_budget_tokens": 11},
    "prefix cache off": {"max_batch_size": 6, "reuses_prefixes": False},
    "a full cache": {"max_batch_size": 6, "num_tokens": 130},
    "resumed in the middle": {"max_batch_size": 4, "resumes": True},
    "all at once": {
        "max_batch_size": 7, "num_tokens": 140, "prefill_budget_tokens": 13, "resumes": True,
    },
}  # fmt: skip


def make_requests(ask, vocab_size):
    """Prompts of 1 to 90 tokens; a third of them begin as another one does."""
    rng = random.Random(17)
    prompts = []
    for _ in range(NUM_PROMPTS):
        ids = [
            rng.randrange(2, vocab_size) for _ in range(rng.choice([1, 2, 3, 9, 20, 33, 64, 90]))
        ]
        if prompts and rng.random() < 0.35:
            other = rng.choice(prompts)
            ids = [*other[: rng.randint(1, len(other))], *ids][:100]
        prompts.append(ids)
    return [ask(str(i), ids, max_tokens=rng.randint(1, 24)) for i, ids in enumerate(prompts)]


@pytest.fixture(scope="session")
def expectations():
    """What `generate` gives, computed once for each family."""
    return {}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_greedy_tokens_are_generates(
    way, family, model_of, drive, ask, generate, usual, expectations
):
    loaded = model_of(family)
    requests = make_requests(ask, loaded.vocab_size)
    if family not in expectations:
        expectations[family] = {r.request_id: generate(loaded, r) for r in requests}
    expected = expectations[family]
    options = dict(WAYS[way])
    rng = random.Random(way)
    resumes, num_tokens = options.pop("resumes", False), options.pop("num_tokens", None)
    if not options.pop("reuses_prefixes", True):
        options["runner"] = SlotRunner(loaded, options["max_batch_size"], reuses_prefixes=False)
    if num_tokens is not None:
        num_heads_factor = 2 if family == "gpt2" else 1  # as many key-value heads as heads
        options["cache_bytes"] = num_tokens * TOKEN_BYTES * num_heads_factor
    driven = drive(loaded, **options)

    rng.shuffle(requests)
    for request in requests:
        committed = expected[request.request_id][: rng.randint(0, 20)] if resumes else []
        driven.add(dataclasses.replace(request, committed_ids=tuple(committed)))
        driven.step(rng.choice([0, 0, 0, 1, 2]))
    driven.finish()

    for request in requests:
        answer = driven[request.request_id]
        whole = expected[request.request_id]
        assert_same(
            usual(loaded), request, [*whole[: answer.outputs[0].position], *answer.ids], whole
        )
    assert (driven.engine.num_preempted > 0) == (num_tokens is not None)
    assert (driven.engine.cache.hits > 0) == (way != "prefix cache off")
