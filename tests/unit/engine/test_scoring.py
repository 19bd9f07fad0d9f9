"""A request that has nothing left to generate, and asks how likely its prompt is."""

import dataclasses

import pytest
import torch

from worker.engine.paged_runner import PagedRunner

HOT = {"temperature": 1.6, "top_p": 1.0, "max_tokens": 6, "seed": 3}


def random_ids(count):
    return [
        int(i) for i in torch.randint(5, 290, (count,), generator=torch.Generator().manual_seed(2))
    ]


def scores(answer):
    (found,) = [output.prompt_logprobs for output in answer.outputs if output.prompt_logprobs]
    return found


def check_same(got, wanted):
    expected = pytest.approx([one.logprob for one in wanted], abs=1e-4)
    assert [one.logprob for one in got] == expected
    assert [[i for i, _ in one.top] for one in got] == [[i for i, _ in one.top] for one in wanted]


@pytest.mark.parametrize("family", ["llama", "mistral", "bloom", "mamba"])
@pytest.mark.parametrize("budget", [1, 3, 22, 23, 512])
def test_a_prompt_is_scored_without_a_token(model_of, drive, ask, family, budget):
    loaded, ids = model_of(family), random_ids(23)
    wanted = drive(loaded).add(ask("a", ids, max_tokens=1, prompt_logprobs=2)).finish()["a"]
    driven = drive(loaded, prefill_budget_tokens=budget)
    driven.add(
        ask("b", ids, max_tokens=0, prompt_logprobs=2), ask("other", "lazy dog", **HOT)
    ).finish()
    answer = driven["b"]
    assert (answer.ids, answer.text, answer.reason) == ([], "", "length")
    assert len(answer.outputs) == 1
    check_same(scores(answer), scores(wanted))


@pytest.mark.parametrize("is_paged", [False, True])
def test_what_is_cached_of_a_prompt_is_scored_too(llama, drive, ask, is_paged):
    runner = PagedRunner(llama, 40, block_size=4) if is_paged else None
    driven = drive(llama, runner=runner)
    request = ask("a", random_ids(40), max_tokens=0, prompt_logprobs=1)
    driven.add(request).finish()
    driven.add(dataclasses.replace(request, request_id="b")).finish()
    check_same(scores(driven["b"]), scores(driven["a"]))
    assert driven["b"].timings.cached_tokens == 0


@pytest.mark.parametrize("is_paged", [False, True])
def test_a_prompt_that_fills_the_context_is_scored_beside_others(llama, drive, ask, is_paged):
    runner = PagedRunner(llama, 15, block_size=4) if is_paged else None
    driven = drive(llama, runner=runner, prefill_budget_tokens=7)
    driven.add(ask("other", "the quick brown", **HOT)).step(3)
    ids = random_ids(driven.engine.context_length)
    driven.add(ask("a", ids, max_tokens=0, prompt_logprobs=0)).finish()
    assert len(scores(driven["a"])) == len(ids) - 1


@pytest.mark.parametrize("extra", [{}, {"prompt_logprobs": 3}])
def test_where_there_is_nothing_to_score_it_ends_at_once(llama, drive, ask, extra):
    [output] = drive(llama).add(ask("a", [7], max_tokens=0, **extra)).step()
    assert (output.finish_reason, output.prompt_logprobs) == ("length", ())


def test_with_a_grammar_nothing_is_drawn_either(llama, drive, ask):
    request = ask("a", "the quick brown", max_tokens=0, prompt_logprobs=0)
    driven = drive(llama).add(dataclasses.replace(request, grammar='start: "yes" | "no"')).finish()
    assert (driven["a"].ids, driven["a"].reason) == ([], "length")
    assert len(scores(driven["a"])) == len(request.prompt_ids) - 1


def test_a_completion_that_had_ended_before_a_crash_is_scored_after_it(llama, drive, ask):
    request = ask("a", "the quick brown", **HOT, prompt_logprobs=2)
    whole = drive(llama).add(request).finish()["a"]
    again = dataclasses.replace(request, committed_ids=tuple(whole.ids))
    answer = drive(llama).add(again).finish()["a"]
    assert (answer.ids, answer.reason) == ([], whole.reason)
    assert answer.outputs[0].position == len(whole.ids)
    check_same(scores(answer), scores(whole))


def test_one_that_runs_out_of_time_tells_no_part_of_its_scores(llama, drive, ask, clock):
    request = ask("a", random_ids(30), max_tokens=0, prompt_logprobs=0)
    driven = drive(llama, prefill_budget_tokens=5)
    driven.add(dataclasses.replace(request, time_limit_s=2.5)).step()
    clock.now += 3
    [output] = driven.step()
    assert (output.finish_reason, output.prompt_logprobs) == ("timeout", ())
