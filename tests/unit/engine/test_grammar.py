"""Texts that follow a grammar."""

import dataclasses
import re
from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from tests.unit.engine.guided import (
    CASES,
    SEEDS,
    Guided,
    check,
    regex,
)
from worker.engine.loader import LoadedModel
from worker.engine.sequence import FinishReason, Request


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_ends_is_valid_whatever_the_model_would_rather_say(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    name: str,
    temperature: float,
) -> None:
    grammar, is_valid = CASES[name]
    engine = guided(llama, max_batch_size=8)
    for seed in SEEDS:
        engine.add(follow(f"{seed}", grammar, seed=seed, temperature=temperature, top_p=1.0))
    engine.finish()
    ended = [check(engine[f"{seed}"], is_valid) for seed in SEEDS]
    # A greedy model may repeat itself within a string for ever; drawn ones mostly come to an end.
    assert temperature == 0 or sum(ended) > len(SEEDS) // 3


def test_a_row_without_a_grammar_is_what_it_is_without_neighbours(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    free = [follow(f"free {i}", None, seed=i, temperature=0.9, prompt=[5 + i]) for i in range(4)]
    alone = guided(llama).add(*free).finish()
    mixed = guided(llama, max_batch_size=16)
    for i, (grammar, _) in enumerate(CASES.values()):
        mixed.add(follow(f"guided {i}", grammar, seed=i, temperature=1.5))
    mixed.add(*free).finish()
    assert [mixed[f.request_id].ids for f in free] == [alone[f.request_id].ids for f in free]


@pytest.mark.parametrize("name", ["person", "lark", "json object"])
def test_a_seeded_run_is_the_same_alone_in_a_batch_and_after_a_resume(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request], name: str
) -> None:
    grammar, _ = CASES[name]
    batch = guided(llama, max_batch_size=8)
    requests = [follow(f"{i}", grammar, seed=i, temperature=1.2, prompt=[9 + i]) for i in range(6)]
    batch.add(*requests).finish()
    for i, request in enumerate(requests):
        whole = batch[f"{i}"]
        assert guided(llama).add(request).finish()[f"{i}"].ids == whole.ids
        for cut in {1, len(whole.ids) // 2, len(whole.ids) - 1} - {0}:
            committed = tuple(whole.ids[:cut])
            extra = {"seed": i, "temperature": 1.2, "committed_ids": committed}
            resumed = follow(f"{i}", grammar, prompt=[9 + i], **extra)
            rest = guided(llama).add(resumed).finish()[f"{i}"]
            assert list(committed) + rest.ids == whole.ids
            assert rest.reason is whole.reason


def test_a_resume_from_the_whole_of_it_ends_at_once(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    ids = guided(llama).add(follow("r", regex("[ab]{3}"), temperature=1.0)).finish()["r"].ids
    resumed = follow("r", regex("[ab]{3}"), committed_ids=tuple(ids), max_tokens=len(ids))
    answer = guided(llama).add(resumed).finish()["r"]
    assert (answer.ids, answer.reason) == ([], FinishReason.STOP)


def test_max_tokens_cuts_the_grammar_short(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("[ab]{50}"), max_tokens=5)).finish()["r"]
    assert (len(answer.ids), answer.reason) == (5, FinishReason.LENGTH)


def test_a_grammar_that_is_fulfilled_by_the_last_token_has_not_been_cut(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("q{5}"), max_tokens=5)).finish()["r"]
    assert (answer.text, answer.reason) == ("qqqqq", FinishReason.STOP)


def test_an_open_end_waits_for_min_tokens(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    engine = guided(llama, max_batch_size=8)
    for seed in SEEDS:
        engine.add(
            follow(f"{seed}", regex("[xyz]+"), seed=seed, temperature=1.5, top_p=1.0, min_tokens=7)
        )
    engine.finish()
    for seed in SEEDS:
        answer = engine[f"{seed}"]
        assert len(answer.ids) >= 7
        assert re.fullmatch("[xyz]+", answer.text)


def test_min_tokens_beyond_the_grammar_give_way_to_it(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("qz"), min_tokens=50)).finish()["r"]
    assert (answer.text, answer.reason) == ("qz", FinishReason.STOP)


def test_ignore_eos_goes_on_for_as_long_as_the_grammar_does(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    engine = guided(llama)
    engine.add(follow("open", regex("[xyz]+"), ignore_eos=True, temperature=1.0, max_tokens=30))
    engine.add(follow("closed", regex("[xyz]{4}"), ignore_eos=True, temperature=1.0))
    engine.finish()
    assert engine["open"].reason is FinishReason.LENGTH
    assert re.fullmatch("[xyz]+", engine["open"].text)
    assert engine["closed"].reason is FinishReason.STOP
    assert re.fullmatch("[xyz]{4}", engine["closed"].text)


def test_a_stop_string_ends_it_before_the_grammar_does(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("qqxqq"), stop=("x",))).finish()["r"]
    assert (answer.text, answer.reason) == ("qq", FinishReason.STOP)


def test_biases_and_penalties_choose_within_the_grammar(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    wanted, outside = tokenizer.encode("z")[0], tokenizer.encode("q")[0]
    bias = ((wanted, 100.0), (outside, 100.0))
    answer = (
        guided(llama)
        .add(
            follow(
                "r",
                regex("[xyz]{5}"),
                logit_bias=bias,
                repetition_penalty=1.2,
                logprobs=2,
                temperature=1.0,
            )
        )
        .finish()["r"]
    )
    assert answer.text == "zzzzz"
    # What the model thinks of a token does not depend on what it may say.
    assert all(o.logprobs[0].logprob > -9999 for o in answer.outputs if o.token_ids)


def test_an_eos_that_reads_as_text_ends_it_only_where_the_grammar_may_end(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    plain = tokenizer.encode("q")[0]
    loaded = dataclasses.replace(llama, eos_ids=frozenset({plain}))
    bias = ((plain, 100.0),)
    engine = guided(loaded)
    engine.add(follow("fixed", regex("[a-z]{8}"), logit_bias=bias, temperature=1.0))
    engine.add(follow("open", regex("([a-z]{2})+"), logit_bias=bias, temperature=1.0))
    engine.finish()
    assert re.fullmatch("[a-z]{8}", engine["fixed"].text)
    assert re.fullmatch("[a-z]{2}", engine["open"].text), "it ends at the first place it may"


def test_a_grammar_that_no_token_fits_fails_alone(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    engine = guided(llama)
    engine.add(follow("stuck", 'start: "x" A\nA: /a/ & /b/'), follow("other", regex("[ab]{9}")))
    engine.finish()
    assert engine["stuck"].reason is FinishReason.ERROR
    assert engine["stuck"].last.error_code == "grammar_stuck"
    assert engine["stuck"].text == "x"
    assert engine["other"].reason is FinishReason.STOP


# Each of these alternatives may have begun anywhere before: their states multiply.
