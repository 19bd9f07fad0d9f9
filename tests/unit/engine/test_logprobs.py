"""Log-probabilities are the model's own, and what gives them changes nothing else."""

import dataclasses

import pytest
import torch

from worker.engine.logprobs import ROWS_AT_ONCE, logprobs, sampled_logprobs
from worker.engine.padded_runner import PaddedRunner
from worker.engine.sequence import LEAST_LOGPROB

HOT = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 10, "seed": 5}


def expected_of(usual, loaded, ids):
    """The log-softmax of transformers' logits: row i is about token i + 1."""
    with torch.inference_mode():
        return usual(loaded)(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def check(found, ids, expected, num_top):
    assert len(found) == len(ids) == len(expected)
    for one, token_id, row in zip(found, ids, expected, strict=True):
        assert one.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        best = row.topk(num_top).values.tolist()
        assert [value for _, value in one.top] == pytest.approx(best, abs=1e-4)
        assert [float(row[i]) for i, _ in one.top] == pytest.approx(best, abs=1e-4)


def of_prompt(answer):
    found = [output.prompt_logprobs for output in answer.outputs if output.prompt_logprobs]
    assert len(found) <= 1, "sent once"
    assert not found or answer.outputs[0].prompt_logprobs, "and with the first token"
    return found[0] if found else ()


def of_tokens(answer):
    return [found for output in answer.outputs for found in output.logprobs]


def test_the_best_come_in_order_and_of_ties_the_smaller_id_first():
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0]])
    for num_top, ids in [
        (0, []),
        (1, [1]),
        (2, [1, 3]),
        (4, [1, 3, 2, 4]),
        (9, [1, 3, 2, 4, 5, 0]),
    ]:
        (found,) = logprobs(logits, [0], num_top)
        assert [token_id for token_id, _ in found.top] == ids
        values = logits.log_softmax(-1)[0]
        assert found.logprob == float(values[0])
        assert [value for _, value in found.top] == [float(values[i]) for i in ids]


def test_rows_get_what_they_get_alone_and_nothing_where_none_asked():
    num = 2 * ROWS_AT_ONCE + 3
    logits = torch.randn(num, 500, generator=torch.Generator().manual_seed(1)).bfloat16()
    num_top = [(None, 0, 3, 20)[row % 4] for row in range(num)]
    together = sampled_logprobs(logits, list(range(num)), num_top)
    for row, wanted in enumerate(num_top):
        alone = None if wanted is None else logprobs(logits[row : row + 1], [row], wanted)[0]
        assert together[row] == alone


def test_a_token_that_is_out_of_the_question_still_has_a_finite_logprob():
    largest = torch.finfo(torch.float32).max
    (found,) = logprobs(torch.tensor([[largest, -largest]]), [1], 2)
    assert found.logprob == LEAST_LOGPROB
    assert found.top == ((0, 0.0), (1, LEAST_LOGPROB))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "bloom"])
def test_generated_tokens_have_the_models_logprobs_whatever_drew_them(
    model_of, usual, drive, ask, family
):
    loaded = model_of(family)
    extra = HOT | {"repetition_penalty": 1.4, "logit_bias": ((50, 4.0),), "min_tokens": 4}
    request = ask("a", "the quick brown", logprobs=3, **extra)
    driven = drive(loaded, prefill_budget_tokens=5)
    driven.add(ask("b", "over", **HOT), request, ask("c", "lazy", **HOT, logprobs=0)).finish()
    ids = [*request.prompt_ids, *driven["a"].ids]
    expected = expected_of(usual, loaded, ids)[len(request.prompt_ids) - 1 : -1]
    check(of_tokens(driven["a"]), driven["a"].ids, expected, 3)
    assert of_tokens(driven["b"]) == []
    assert [found.top for found in of_tokens(driven["c"])] == [()] * len(driven["c"].ids)
    assert (
        driven["a"].ids == drive(loaded).add(ask("a", "the quick brown", **extra)).finish()["a"].ids
    )


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "bloom"])
@pytest.mark.parametrize("budget", [3, 512])
def test_the_tokens_of_a_prompt_have_the_models_logprobs(
    model_of, usual, drive, ask, family, budget
):
    loaded = model_of(family)
    ids = [int(i) for i in torch.randint(5, 290, (23,), generator=torch.Generator().manual_seed(2))]
    driven = drive(loaded, prefill_budget_tokens=budget)
    # The second begins as the first did, and that is in the cache.
    driven.add(ask("a", ids, max_tokens=2, prompt_logprobs=2), ask("other", "lazy dog")).finish()
    driven.add(ask("b", ids, max_tokens=2, prompt_logprobs=0)).finish()
    driven.add(ask("c", ids, max_tokens=2)).finish()
    expected = expected_of(usual, loaded, ids)[:-1]
    check(of_prompt(driven["a"]), ids[1:], expected, 2)
    check(
        [dataclasses.replace(one, top=()) for one in of_prompt(driven["b"])], ids[1:], expected, 0
    )
    assert of_prompt(driven["c"]) == of_prompt(driven["other"]) == ()
    assert driven["a"].ids == driven["b"].ids == driven["c"].ids
    assert driven["b"].timings.cached_tokens == 0


def test_a_prompt_of_one_token_has_no_logprobs(llama, drive, ask):
    answer = drive(llama).add(ask("a", [7], prompt_logprobs=3)).finish()["a"]
    assert (of_prompt(answer), answer.reason) == ((), "length")


def test_a_resumed_sequence_gives_the_logprobs_that_it_would_have_given(llama, drive, ask):
    request = ask("a", "the quick brown", **HOT, logprobs=2, prompt_logprobs=1)
    whole = drive(llama).add(request).finish()["a"]
    for position in range(len(whole.ids)):
        again = dataclasses.replace(request, committed_ids=tuple(whole.ids[:position]))
        answer = drive(llama).add(again).finish()["a"]
        for got, wanted in [
            (of_tokens(answer), of_tokens(whole)[position:]),
            (of_prompt(answer), of_prompt(whole)),
        ]:
            expected = pytest.approx([one.logprob for one in wanted], abs=1e-4)
            assert [one.logprob for one in got] == expected
            assert [[i for i, _ in one.top] for one in got] == [
                [i for i, _ in one.top] for one in wanted
            ]


class Narrow(PaddedRunner):
    """Has no room for one more token once, so that a sequence gives way."""

    def __init__(self, loaded, at):
        super().__init__(loaded, 4)
        self.at = at

    def reserve(self, key, num_tokens):
        self.at -= num_tokens == 1
        return self.at != 0


def test_a_sequence_that_gives_way_in_its_prompt_has_each_logprob_once(llama, usual, drive, ask):
    ids = list(range(20, 50))
    driven = drive(llama, runner=Narrow(llama, 4), prefill_budget_tokens=6)
    driven.add(ask("a", "fox", max_tokens=12)).step()
    driven.add(ask("b", ids, max_tokens=3, prompt_logprobs=1, logprobs=1)).finish()
    assert driven.engine.num_preempted == 1
    check(of_prompt(driven["b"]), ids[1:], expected_of(usual, llama, ids)[:-1], 1)
    whole = [*ids, *driven["b"].ids]
    check(of_tokens(driven["b"]), driven["b"].ids, expected_of(usual, llama, whole)[29:-1], 1)


def test_broken_logits_inside_a_prompt_end_the_request_that_wants_them(llama, drive, ask):
    class Spoiling(PaddedRunner):
        def run(self, chunks):
            logits = super().run(chunks)
            return logits.index_fill(0, torch.tensor([1]), torch.nan) if len(logits) > 2 else logits

    driven = drive(llama, runner=Spoiling(llama, 4))
    driven.add(ask("a", "the quick", prompt_logprobs=0), ask("b", "the quick")).finish()
    assert driven["a"].last.error_code == "non_finite_logits"
    assert driven["b"].reason == "length"
