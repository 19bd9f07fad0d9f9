"""What is refused for a model whose server cannot honour it."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import InvalidRequestError
from common.grammar import GrammarSpec
from common.parameters import GRAMMARS, PROMPTS, SAMPLING, check_parameters
from common.sampling import SamplingSpec
from common.schemas import Prompt

PLAIN = Prompt(text="hi")
ASKED: dict[str, Any] = {
    "top_k": 3,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 1.0,
    "frequency_penalty": -1.0,
    "ignore_eos": True,
    "min_tokens": 1,
    "stop_token_ids": (1,),
    "logit_bias": ((1, 2.0),),
    "logprobs": 0,
    "prompt_logprobs": 0,
}


def check(honoured: tuple[str, ...] | None, prompt: Prompt = PLAIN, **sampling: Any) -> None:
    spec = SamplingSpec(**({"max_tokens": 5, "time_limit_s": 60, "seed": 1} | sampling))
    check_parameters("m", honoured, spec, [prompt])


def test_every_sampling_parameter_has_a_case() -> None:
    assert set(ASKED) == set(SAMPLING)


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_for_and_not_honoured_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{name} is not supported for 'm'") as caught:
        check((), **{name: ASKED[name]})
    assert caught.value.param == name
    check((name,), **{name: ASKED[name]})


def test_what_everybody_honours_is_never_refused() -> None:
    check((), temperature=0.1, top_p=0.5, stop=("x",), n=4, skip_special_tokens=False)


def test_our_own_models_honour_everything() -> None:
    check(None, grammar=GrammarSpec("lark", "x"), **ASKED)


@pytest.mark.parametrize("kind", GRAMMARS)
def test_a_grammar_is_refused_as_a_response_format(kind: Any) -> None:
    with pytest.raises(InvalidRequestError, match="response_format") as e:
        check((), grammar=GrammarSpec(kind, "x"))
    assert e.value.param == "response_format"
    check((kind,), grammar=GrammarSpec(kind, "x"))


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (Prompt(token_ids=(1, 2), raw=True), "prompt"),
        (Prompt(messages=(), template_kwargs={"a": 1}), "chat_template_kwargs"),
    ],
)
def test_a_prompt_that_the_server_cannot_read_is_refused(prompt: Prompt, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check((), prompt)
    assert caught.value.param == param
    check(PROMPTS, prompt)
