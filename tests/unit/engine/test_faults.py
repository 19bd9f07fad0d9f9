"""What goes wrong in one sequence stays there."""

import copy
import dataclasses

import pytest
import torch

from worker.engine.engine import Engine
from worker.engine.errors import DeviceLostError
from worker.engine.padded_runner import PaddedRunner


class Meddler(PaddedRunner):
    """A real runner whose results or forwards a test spoils."""

    def __init__(self, loaded, *, spoil=None, refuse=None):
        super().__init__(loaded, 4)
        self.spoil = spoil or (lambda chunks, logits: logits)
        self.refuse = refuse or (lambda chunks: False)

    def run(self, chunks):
        if self.refuse(chunks):
            raise RuntimeError("spoiled by the test")
        return self.spoil(chunks, super().run(chunks))


class Refusing:
    """Refuses the chunks of some sequences, which are numbered from 1 in their order of arrival."""

    def __init__(self, keys):
        self.keys = keys

    def __call__(self, chunks):
        return any(chunk.key in self.keys for chunk in chunks)


def three(ask):
    return [ask("a", "the quick"), ask("b", "lazy dog"), ask("c", "fox jumps")]


@pytest.fixture
def undisturbed(llama, drive, ask):
    driven = drive(llama).add(*three(ask)).finish()
    return {name: driven[name].ids for name in "abc"}


def assert_only_b_failed(driven, undisturbed, code, num_tokens):
    assert (driven["b"].reason, driven["b"].last.error_code) == ("error", code)
    assert driven["b"].ids == undisturbed["b"][:num_tokens]
    assert driven["b"].last.error
    assert driven["a"].ids == undisturbed["a"]
    assert driven["c"].ids == undisturbed["c"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_logits_end_that_request_alone(llama, drive, ask, undisturbed, value):
    def spoil(chunks, logits):
        logits = logits.clone()
        for row, chunk in enumerate(chunks):
            if chunk.key == 2 and len(chunk.token_ids) == 1 and chunk.start > 12:
                logits[row, 5] = value
        return logits

    request_b = three(ask)[1]
    driven = drive(llama, runner=Meddler(llama, spoil=spoil)).add(*three(ask)).finish()
    num_tokens = 13 - len(request_b.prompt_ids) + 1
    assert_only_b_failed(driven, undisturbed, "non_finite_logits", num_tokens)


def test_broken_logits_of_a_prefill_end_that_request_alone(llama, drive, ask, undisturbed):
    def spoil(chunks, logits):
        keys = torch.tensor([chunk.key for chunk in chunks])
        return logits.masked_fill((keys == 2)[:, None], float("nan"))

    driven = drive(llama, runner=Meddler(llama, spoil=spoil)).add(*three(ask)).finish()
    assert_only_b_failed(driven, undisturbed, "non_finite_logits", 0)


def test_a_weight_that_is_not_a_number_ends_only_those_that_meet_it(llama, drive, ask, undisturbed):
    used = {i for request in three(ask) for i in request.prompt_ids}
    used |= {i for ids in undisturbed.values() for i in ids}
    token_id = min(set(range(5, llama.vocab_size)) - used)
    broken = dataclasses.replace(llama, model=copy.deepcopy(llama.model))
    broken.model.get_input_embeddings().weight.data[token_id] = float("nan")
    driven = drive(broken).add(*three(ask))
    driven.step(3)
    driven.add(ask("bad", [5, token_id, 6])).finish()
    assert driven["bad"].last.error_code == "non_finite_logits"
    assert {name: driven[name].ids for name in "abc"} == undisturbed


def test_a_sequence_that_fails_alone_is_the_only_one_to_end(llama, drive, ask, undisturbed, caplog):
    def refuse(chunks):
        return any(chunk.key == 2 and chunk.start > 12 for chunk in chunks)

    driven = drive(llama, runner=Meddler(llama, refuse=refuse)).add(*three(ask)).finish()
    num_tokens = 13 - len(three(ask)[1].prompt_ids) + 1
    assert_only_b_failed(driven, undisturbed, "engine_error", num_tokens)
    assert "spoiled by the test" in caplog.text, "the traceback is for the log"
    assert "spoiled" not in (driven["b"].last.error or ""), "and not for the user"


def test_a_failure_of_the_batch_as_a_whole_ends_nobody(llama, drive, ask, undisturbed):
    driven = drive(llama, runner=Meddler(llama, refuse=lambda chunks: len(chunks) > 1))
    driven.add(*three(ask)).finish()
    assert {name: driven[name].ids for name in "abc"} == undisturbed


@pytest.mark.parametrize("call", range(1, 14))
def test_a_forward_that_breaks_between_two_layers_leaves_the_state_intact(
    llama, drive, ask, undisturbed, call
):
    num_calls = 0

    def break_once(module, args):
        nonlocal num_calls
        num_calls += 1
        if num_calls == call:
            raise RuntimeError("spoiled by the test")

    driven = drive(llama)
    model = llama.model
    with model.model.layers[1].register_forward_pre_hook(break_once):
        driven.add(*three(ask)).finish()
    assert {name: driven[name].ids for name in "abc"} == undisturbed


def test_a_device_on_which_every_sequence_fails_alone_is_lost(llama, ask):
    engine = Engine(llama, max_batch_size=4, runner=Meddler(llama, refuse=lambda chunks: True))
    for request in three(ask):
        engine.add(request)
    with pytest.raises(DeviceLostError):
        engine.step()


def test_an_error_of_the_device_is_nobodys_fault_and_ends_no_sequence(llama, ask):
    class Broken(PaddedRunner):
        def run(self, chunks):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    engine = Engine(llama, max_batch_size=4, runner=Broken(llama, 4))
    engine.add(ask("a", "the quick"))
    with pytest.raises(DeviceLostError, match="device-side assert"):
        engine.step()


def test_failures_with_successes_between_them_do_not_lose_the_device(llama, drive, ask):
    refuse = Refusing(keys={1, 3, 5, 7})
    engine = Engine(llama, max_batch_size=1, runner=Meddler(llama, refuse=refuse))
    reasons = []
    for name in "abcdefgh":
        engine.add(ask(name, "the quick"))
        while engine.has_work:
            reasons += [output.finish_reason for output in engine.step() if output.finish_reason]
    assert reasons == ["error", "length"] * 4


def test_an_only_sequence_that_fails_ends_with_an_error(llama, drive, ask):
    runner = Meddler(llama, refuse=lambda chunks: True)
    answer = drive(llama, runner=runner).add(ask("a", "fox")).finish()["a"]
    assert (answer.reason, answer.last.error_code) == ("error", "engine_error")
    assert answer.timings.batch_size == 0


BAD = {
    "prompt_ids must hold at least one token id": {"prompt": []},
    "prompt_ids must be in [0, 300), got 300 at index 1": {"prompt": [5, 300]},
    "prompt_ids must be in [0, 300), got -1 at index 0": {"prompt": [-1]},
    "committed_ids must be in [0, 300), got 999": {"committed_ids": (999,)},
    "committed_ids must hold at most max_tokens = 2 ids, got 3": {
        "max_tokens": 2,
        "committed_ids": (5, 5, 5),
    },
    "stop_token_ids must be in [0, 300), got 301": {"stop_token_ids": (301,)},
    "must fit in the context of 160 tokens, got 1 + 160": {"max_tokens": 160},
    "max_tokens must be in [0,": {"max_tokens": -1},
    "temperature must be in [0,": {"temperature": -0.5},
    "temperature must be in [0, 1e+30], got nan": {"temperature": float("nan")},
    "top_p must be in [0, 1], got 1.5": {"top_p": 1.5},
    "top_k must be in [0,": {"top_k": -1},
    "min_p must be in [0, 1], got 2": {"min_p": 2},
    "repetition_penalty must be in": {"repetition_penalty": 0},
    "presence_penalty must be in": {"presence_penalty": float("inf")},
    "frequency_penalty must be in": {"frequency_penalty": float("-inf")},
    "min_tokens must be in [0, 3], got 4": {"max_tokens": 3, "min_tokens": 4},
    "stop strings must not be empty": {"stop": ("x", "")},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_request_is_refused_and_affects_nobody(llama, drive, ask, undisturbed, message):
    asked = {"prompt": [5], **BAD[message]}
    bad = ask("bad", asked.pop("prompt"), **asked)
    driven = drive(llama).add(*three(ask)).add(bad).finish()
    assert (driven["bad"].reason, driven["bad"].last.error_code) == ("error", "invalid_request")
    assert message in (driven["bad"].last.error or "")
    assert driven["bad"].ids == []
    assert {name: driven[name].ids for name in "abc"} == undisturbed


WRONG_TYPES = {
    "max_tokens": {"max_tokens": None},
    "logit_bias": {"logit_bias": {5: 1.0}},
    "seed": {"seed": None},
    "temperature": {"temperature": None},
    "stop": {"stop": "abc"},
    "time_limit_s": {"time_limit_s": float("nan")},
    "priority": {"priority": "high"},
    "used_s": {"used_s": "a while"},
    "committed_ids": {"committed_ids": None},
    "choice": {"choice": None},
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_wrong_type_is_refused_and_affects_nobody(llama, ask, make_engine, undisturbed, name):
    engine, outputs = make_engine(llama), []
    first, *others = three(ask)
    engine.add(first)
    outputs += engine.step()
    for request in (ask("bad", [5], **WRONG_TYPES[name]), *others):
        engine.add(request)
    while engine.has_work:
        outputs += engine.step()
    [bad] = [output for output in outputs if output.request_id == "bad"]
    assert bad.error_code == "invalid_request"
    assert bad.error.startswith(f"{name} must be")
    ids = {n: [i for o in outputs if o.request_id == n for i in o.token_ids] for n in "abc"}
    assert ids == undisturbed


def test_a_request_that_breaks_what_takes_it_in_loses_no_other(
    llama, drive, ask, undisturbed, caplog
):
    class Odd(str):
        def __eq__(self, other):
            raise RuntimeError("spoiled by the test")

        __hash__ = str.__hash__

    driven = drive(llama)
    first, *others = three(ask)
    driven.add(first)
    driven.engine.add(dataclasses.replace(ask("odd", [5]), request_id=Odd("odd")))
    driven.add(*others).finish()
    assert {name: driven[name].ids for name in "abc"} == undisturbed
    assert "spoiled by the test" in caplog.text


def test_lists_where_tuples_are_asked_for_change_nothing(llama, drive, ask, undisturbed):
    lists = dataclasses.replace(three(ask)[0], prompt_ids=list(three(ask)[0].prompt_ids))
    params = dataclasses.replace(lists.params, stop=["~~~"], logit_bias=[[1, 0.0]])
    driven = drive(llama).add(dataclasses.replace(lists, params=params), *three(ask)[1:]).finish()
    assert {name: driven[name].ids for name in "abc"} == undisturbed


def test_a_number_too_large_for_a_float_is_refused_too(llama, drive, ask):
    answer = drive(llama).add(ask("bad", [5], top_k=10**400)).finish()["bad"]
    assert answer.last.error_code == "invalid_request"


def test_a_duplicate_is_refused_and_the_first_goes_on(llama, drive, ask, make_engine):
    engine = make_engine(llama)
    engine.add(ask("a", "fox", max_tokens=3))
    first = engine.step()
    engine.add(ask("a", "lazy dog"))
    second = engine.step()
    assert [(o.position, o.error_code) for o in [*first, *second]] == [
        (0, None),
        (0, "duplicate_request"),
        (1, None),
    ]
    (third,) = engine.step()
    assert third.finish_reason == "length"
    engine.add(ask("a", "fox", max_tokens=1))
    assert engine.step()[0].finish_reason == "length", "an ended name may be used again"


def test_penalties_can_never_make_the_logits_overflow(llama, drive, ask):
    request = ask("a", "fox", repetition_penalty=1e-30, presence_penalty=-1e30, temperature=1e-30)
    assert drive(llama).add(request).finish()["a"].reason == "length"


def test_check_integrity_notices_books_that_disagree(llama, ask, clock):
    engine = Engine(llama, max_batch_size=2, clock=clock)
    engine.add(ask("a", "fox"))
    engine.step()
    engine.check_integrity()
    sequence = next(iter(engine._scheduler))
    engine._runner.free([sequence.key])
    with pytest.raises(AssertionError, match="cached"):
        engine.check_integrity()


def test_outputs_are_plain_values(llama, drive, ask):
    (output,) = drive(llama).add(ask("a", "fox")).step()
    assert dataclasses.asdict(output)["request_id"] == "a"
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.position = 3
