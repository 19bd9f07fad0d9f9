"""A request that cannot run is refused with what was expected of which parameter, and what came."""

import dataclasses

import pytest

from api import schemas
from common import sampling
from worker.engine import sequence
from worker.engine.errors import RequestError
from worker.engine.sequence import MAX_LOGIT_BIASES, Request, SamplingParams
from worker.engine.validation import validate

NAN = float("nan")
LIMITS = {"vocab_size": 50, "context_length": 20}
FINE = Request("a", (1, 2, 3), SamplingParams(max_tokens=8))


def fault(request, **limits):
    with pytest.raises(RequestError) as caught:
        validate(request, **LIMITS | limits)
    assert caught.value.code == "invalid_request"
    return str(caught.value)


def with_params(**extra):
    return dataclasses.replace(FINE, params=dataclasses.replace(FINE.params, **extra))


BAD_PARAMS = [
    ({"max_tokens": -1}, "max_tokens must be in [0", "got -1"),
    ({"min_tokens": 9}, "min_tokens must be in [0, 8]", "got 9"),
    ({"min_tokens": -1}, "min_tokens", "got -1"),
    ({"temperature": -0.1}, "temperature", "got -0.1"),
    ({"temperature": NAN}, "temperature", "got nan"),
    ({"top_p": 1.01}, "top_p must be in [0, 1]", "got 1.01"),
    ({"top_k": -1}, "top_k", "got -1"),
    ({"min_p": NAN}, "min_p", "got nan"),
    ({"repetition_penalty": 0.0}, "repetition_penalty", "got 0.0"),
    ({"presence_penalty": float("inf")}, "presence_penalty", "got inf"),
    ({"frequency_penalty": NAN}, "frequency_penalty", "got nan"),
    ({"stop": ("a", "")}, "stop strings must not be empty", "got ''"),
    ({"stop_token_ids": (1, 50)}, "stop_token_ids must be in [0, 50)", "got 50 at index 1"),
    ({"stop_token_ids": (-1,)}, "stop_token_ids", "got -1 at index 0"),
    ({"stop_token_ids": (1,) * 1025}, "stop_token_ids must hold at most 1024", "got 1025"),
    ({"logprobs": 21}, "logprobs must be in [0, 20]", "got 21"),
    ({"logprobs": -1}, "logprobs must be in [0, 20]", "got -1"),
    ({"prompt_logprobs": 21}, "prompt_logprobs must be in [0, 20]", "got 21"),
    ({"logit_bias": ((50, 1.0),)}, "logit_bias must be in [0, 50)", "got 50 at index 0"),
    ({"logit_bias": ((3, 100.5),)}, "logit_bias must be in [-100, 100]", "got 100.5 for token 3"),
    ({"logit_bias": ((3, NAN),)}, "logit_bias must be in [-100, 100]", "got nan"),
    ({"logit_bias": ((3, 1), (3, 2))}, "logit_bias must name each token once", "named twice"),
    ({"logit_bias": ((3, 1),) * 1025}, "logit_bias must hold at most 1024", "got 1025"),
]


@pytest.mark.parametrize(("extra", "expected", "came"), BAD_PARAMS)
def test_a_parameter_out_of_its_range_is_named(extra, expected, came):
    message = fault(with_params(**extra))
    assert expected in message
    assert came in message


@pytest.mark.parametrize(
    ("extra", "expected", "came"),
    [
        ({"prompt_ids": ()}, "prompt_ids must hold at least one", "got none"),
        ({"prompt_ids": (1, 50)}, "prompt_ids must be in [0, 50)", "got 50 at index 1"),
        ({"prompt_ids": (1,) * 20}, "prompt_ids must be shorter than the context of 20", "got 20"),
        ({"prompt_ids": (1,) * 21}, "prompt_ids must be shorter than the context of 20", "got 21"),
        ({"prompt_ids": (1,) * 13}, "fit in the context of 20 tokens", "got 13 + 8"),
        ({"committed_ids": (1, -2)}, "committed_ids must be in [0, 50)", "got -2 at index 1"),
        ({"committed_ids": (1,) * 9}, "committed_ids must hold at most max_tokens = 8", "got 9"),
        ({"choice": 128}, "choice must be in [0, 128)", "got 128"),
        ({"choice": -1}, "choice must be in [0, 128)", "got -1"),
    ],
)
def test_a_request_that_does_not_fit_the_model_says_why(extra, expected, came):
    message = fault(dataclasses.replace(FINE, **extra))
    assert expected in message
    assert came in message


BAD_TYPES = [
    ({"max_tokens": None}, "max_tokens must be an integer, got None"),
    ({"max_tokens": 2.5}, "max_tokens must be an integer, got 2.5"),
    ({"max_tokens": True}, "max_tokens must be an integer, got True"),
    ({"top_k": 2.5}, "top_k must be an integer, got 2.5"),
    ({"seed": None}, "seed must be an integer, got None"),
    ({"min_tokens": "1"}, "min_tokens must be an integer, got '1'"),
    ({"temperature": None}, "temperature must be a number, got None"),
    ({"top_p": "0.5"}, "top_p must be a number, got '0.5'"),
    ({"frequency_penalty": [1]}, "frequency_penalty must be a number, got [1]"),
    ({"logprobs": 1.0}, "logprobs must be an integer or None, got 1.0"),
    ({"ignore_eos": 1}, "ignore_eos must be True or False, got 1"),
    ({"stop": "abc"}, "stop must be a tuple of strings, got 'abc'"),
    ({"stop": None}, "stop must be a tuple of strings, got None"),
    ({"stop": (1,)}, "stop must be strings, got 1"),
    ({"stop_token_ids": 5}, "stop_token_ids must be a tuple of token ids, got 5"),
    ({"stop_token_ids": (1.0,)}, "stop_token_ids must be integers, got 1.0 at index 0"),
    (
        {"logit_bias": {5: 1.0}},
        "logit_bias must be a tuple of pairs (token id, bias), got {5: 1.0}",
    ),
    ({"logit_bias": (5,)}, "logit_bias must be pairs (token id, bias), got 5"),
    ({"logit_bias": ((5, "1"),)}, "logit_bias must be pairs (token id, bias), got (5, '1')"),
    ({"logit_bias": (("5", 1),)}, "logit_bias must be integers, got '5' at index 0"),
]


@pytest.mark.parametrize(("extra", "message"), BAD_TYPES)
def test_a_parameter_of_a_wrong_type_is_named_with_the_right_one(extra, message):
    assert fault(with_params(**extra)) == message


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"prompt_ids": "abc"}, "prompt_ids must be a tuple of token ids, got 'abc'"),
        ({"prompt_ids": ("a",)}, "prompt_ids must be integers, got 'a' at index 0"),
        ({"prompt_ids": (1, 1.5)}, "prompt_ids must be integers, got 1.5 at index 1"),
        ({"prompt_ids": None}, "prompt_ids must be a tuple of token ids, got None"),
        ({"committed_ids": None}, "committed_ids must be a tuple of token ids, got None"),
        ({"params": {"max_tokens": 5}}, "params must be SamplingParams, got {'max_tokens': 5}"),
        ({"priority": "high"}, "priority must be an integer, got 'high'"),
        ({"priority": NAN}, "priority must be an integer, got nan"),
        ({"priority": 99}, "priority must be 0 (high), 1 (normal) or 2 (low), got 99"),
        ({"choice": None}, "choice must be an integer, got None"),
        ({"time_limit_s": NAN}, "time_limit_s must be a number of seconds or None, got nan"),
        ({"time_limit_s": "5"}, "time_limit_s must be a number of seconds or None, got '5'"),
        ({"used_s": None}, "used_s must be a number of seconds, got None"),
        ({"grammar": 5}, "grammar must be a string or None, got 5"),
    ],
)
def test_a_request_with_a_wrong_type_names_the_right_one(extra, message):
    assert fault(dataclasses.replace(FINE, **extra)) == message


def test_a_value_too_long_for_a_message_is_cut():
    assert fault(with_params(seed="x" * 50_000)).endswith("got a str of 50000")
    assert len(fault(with_params(top_k=[10**300]))) < 200


def test_bounds_are_written_in_full():
    assert "top_k must be in [0, 2147483647], got 2147483648" in fault(with_params(top_k=2**31))


def test_lists_are_taken_for_tuples():
    lists = with_params(stop=["a"], stop_token_ids=[1], logit_bias=[[3, 1.0]])
    validate(dataclasses.replace(lists, prompt_ids=[1, 2], committed_ids=[3]), **LIMITS)


def test_all_that_is_just_within_its_range_is_taken():
    biases = tuple((token_id, 100.0 * (-1) ** token_id) for token_id in range(50))
    edge = with_params(min_tokens=8, logprobs=20, prompt_logprobs=0, logit_bias=biases, top_p=0)
    validate(dataclasses.replace(edge, prompt_ids=(49,) * 12, choice=127), **LIMITS)
    validate(FINE, **LIMITS)
    reading = with_params(max_tokens=0, prompt_logprobs=0)
    validate(dataclasses.replace(reading, prompt_ids=(49,) * 20), **LIMITS)


class TooLong(tuple):
    """Fails the test when it is looked through."""

    __slots__ = ()

    def __len__(self):
        return 1_000_000

    def __iter__(self):
        raise AssertionError("a million entries were looked through")


@pytest.mark.parametrize("name", ["logit_bias", "stop_token_ids"])
def test_a_million_entries_are_refused_by_their_number_alone(name):
    message = fault(with_params(**{name: TooLong()}))
    assert f"{name} must hold at most {MAX_LOGIT_BIASES}" in message
    assert "got 1000000" in message


@pytest.mark.parametrize("name", ["prompt_ids", "committed_ids"])
def test_far_too_many_ids_are_refused_by_their_number_alone(name):
    assert "got 1000000" in fault(dataclasses.replace(FINE, **{name: TooLong()}))


def test_ends_that_leave_no_token_for_min_tokens_are_refused():
    every_other = with_params(min_tokens=1, stop_token_ids=tuple(range(1, 50)))
    validate(every_other, **LIMITS)
    assert "must leave a token" in fault(every_other, eos_ids=frozenset({0}))
    ignoring = dataclasses.replace(every_other.params, ignore_eos=True)
    validate(dataclasses.replace(every_other, params=ignoring), **LIMITS, eos_ids=frozenset({0}))


@pytest.mark.parametrize("name", ["MAX_LOGPROBS", "MAX_LOGIT_BIASES", "MAX_STOP_IDS"])
def test_the_gateway_and_the_engine_have_the_same_limits(name):
    assert getattr(schemas, name) == getattr(sequence, name)


def test_the_submission_and_the_engine_have_the_same_number_of_choices():
    assert sampling.MAX_CHOICES == sequence.MAX_CHOICES
