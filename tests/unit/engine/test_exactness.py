"""Greedy in fp32 gives transformers' own tokens, whatever else is in the batch."""

import copy
import random

import pytest
import torch

FAMILIES = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt_oss", "phi3", "neox"),
    "bloom",  # not over slots
]
TIE = 1e-4


def assert_same(model, request, got, expected):
    """A difference counts as rounding only where the two logits are a tie."""
    if got == expected:
        return
    at = next(i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b)
    ids = torch.tensor([[*request.prompt_ids, *expected[:at]]])
    logits = model(ids).logits[0, -1]
    assert abs(float(logits[got[at]] - logits[expected[at]])) < TIE, (at, got, expected)


def mixed_prompts(vocab_size, num):
    rng = random.Random(3)
    lengths = [1, 2, 30, 5, 17, 9, 44, 3][:num]
    return [[rng.randrange(2, vocab_size) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("compiled_or_not", ["compiled", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_mixed_length_arriving_at_different_steps_give_generates_tokens(
    family, compiled_or_not, model_of, drive, ask, generate, usual
):
    loaded = copy.copy(model_of(family))
    if compiled_or_not == "torch":
        loaded.kernels = None
    prompts = mixed_prompts(loaded.vocab_size, 8)
    requests = [ask(str(i), ids, max_tokens=8 + 3 * i) for i, ids in enumerate(prompts)]
    driven = drive(loaded, max_batch_size=4, prefill_budget_tokens=16)
    for request in requests:
        driven.add(request).step(2)
    driven.finish()
    for request in requests:
        answer = driven[request.request_id]
        assert_same(usual(loaded), request, answer.ids, generate(loaded, request))


def test_a_prompt_cut_into_chunks_of_any_size_gives_the_same_tokens(
    llama, drive, ask, generate, usual
):
    request = ask("a", mixed_prompts(llama.vocab_size, 7)[-1])
    expected = generate(llama, request)
    for budget in (1, 2, 3, 43, 44, 45):
        answer = drive(llama, prefill_budget_tokens=budget).add(request).finish()["a"]
        assert_same(usual(llama), request, answer.ids, expected)


def test_an_eos_ends_the_answer_and_is_its_last_id(llama, drive, ask, generate):
    # The best token is made to be an eos by declaring it one.
    request = ask("a", "the quick", max_tokens=12)
    fourth = generate(llama, request)[3]
    expected = generate(llama, request, eos_token_id=fourth)
    answer = drive(llama).add(ask("a", "the quick", stop_token_ids=(fourth,))).finish()["a"]
    assert answer.ids == expected
    assert answer.reason == "stop"
    assert answer.texts[-1] == ""


def test_the_repetition_penalty_is_transformers_own(llama, drive, ask, generate):
    request = ask("a", "the quick brown the quick", repetition_penalty=1.4, max_tokens=20)
    answer = drive(llama).add(request, ask("b", "fox")).finish()["a"]
    plain = generate(llama, request)
    expected = generate(llama, request, repetition_penalty=1.4)
    assert expected != plain
    assert answer.ids == expected


def test_min_tokens_holds_an_end_back_as_min_new_tokens_does(llama, drive, ask, generate):
    plain = generate(llama, ask("a", "over the"))
    options = {"eos_token_id": plain[1], "min_new_tokens": 6}
    request = ask("a", "over the", stop_token_ids=(plain[1],), min_tokens=6)
    answer = drive(llama).add(request).finish()["a"]
    assert answer.ids == generate(llama, request, **options)
    assert plain[1] not in answer.ids[:6]
