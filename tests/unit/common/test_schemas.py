"""What is packed into Redis comes out as it went in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events import TokenEvent, unpack_event
from common.model_card import ModelCard
from common.sampling import SamplingSpec
from common.schemas import (
    ChoiceResult,
    EngineTimings,
    JobRecord,
    JobSpec,
    JobStatus,
    Outcome,
    Prompt,
)
from common.token_logprobs import TokenLogprobs
from tests.fakes import fake_card

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
IDS = st.lists(st.integers(0, 300_000), max_size=5).map(tuple)
SAMPLING = st.builds(
    SamplingSpec,
    max_tokens=st.none() | st.integers(1, 10**6),
    time_limit_s=st.floats(0.1, 1e6),
    seed=st.integers(0, 2**63 - 1),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 1000),
    stop=st.lists(TEXT, max_size=3).map(tuple),
    ignore_eos=st.booleans(),
    stop_token_ids=IDS,
    logit_bias=st.dictionaries(st.integers(0, 300_000), st.floats(-100, 100), max_size=3).map(
        lambda biases: tuple(biases.items())
    ),
    logprobs=st.none() | st.integers(0, 20),
    n=st.integers(1, 128),
    prompt_logprobs=st.none() | st.integers(0, 20),
)
LOGPROBS = st.builds(
    TokenLogprobs,
    st.floats(-9999, 0),
    st.lists(st.tuples(st.integers(0, 300_000), st.floats(-9999, 0)), max_size=3).map(tuple),
)


@given(SAMPLING)
def test_sampling_parameters_come_back_whole(sampling: SamplingSpec) -> None:
    assert SamplingSpec.unpack(sampling.pack()) == sampling


def test_sampling_parameters_at_their_defaults_take_no_room() -> None:
    assert SamplingSpec(5, 60, 1).pack() == '{"max_tokens":5,"time_limit_s":60,"seed":1}'


@given(st.builds(Prompt, text=st.none() | TEXT, raw=st.booleans(), token_ids=st.none() | IDS))
def test_prompts_come_back_whole(prompt: Prompt) -> None:
    assert Prompt.unpack(prompt.pack()) == prompt


def test_messages_come_back_whole() -> None:
    prompt = Prompt(messages=({"role": "user", "content": "é\n"},))
    assert Prompt.unpack(prompt.pack()) == prompt


def test_what_earlier_versions_have_packed_is_read_as_it_was_meant() -> None:
    sampling = SamplingSpec.unpack('{"max_tokens":5,"time_limit_s":60,"seed":1,"stop":["a"]}')
    assert sampling == SamplingSpec(5, 60, 1, stop=("a",))
    assert (sampling.n, sampling.prompt_logprobs) == (1, None)
    prompt = Prompt.unpack('{"text":"Hi","messages":null,"raw":true}')
    assert prompt == Prompt(text="Hi", raw=True)
    record = JobRecord.from_fields(
        "job",
        {
            **{"status": "completed", "key": "k", "model": "m", "class": "low", "eid": "3"},
            **{"params": sampling.pack(), "stream_token": "t", "request_id": "r"},
            **{"created_ms": "5", "attempts": "1", "pos:0": "2", "prompt_ids": "[1,2]"},
            "result": '[{"text":"ab","token_ids":[7,8],"finish_reason":"stop"}]',
        },
    )
    assert record.completion_tokens == 2
    assert record.choices == (ChoiceResult("ab", (7, 8), "stop"),)
    assert record.prompt_logprobs == ()


def test_tools_and_template_arguments_come_back_whole() -> None:
    prompt = Prompt(messages=(), tools=({"type": "function"},), template_kwargs={"a": [None]})
    assert Prompt.unpack(prompt.pack()) == prompt


def test_a_prompt_without_tools_is_packed_as_before_there_were_any() -> None:
    packed = '{"text":"a","messages":null,"raw":false}'
    assert Prompt("a").pack() == packed
    assert Prompt.unpack(packed) == Prompt("a")


def test_a_card_from_before_there_were_templates_for_tools_is_read() -> None:
    values = json.loads(fake_card().pack())
    del values["tool_template"]
    assert ModelCard.unpack(json.dumps(values)) == fake_card()


def test_a_card_s_fields_that_only_a_later_version_knows_are_passed_over() -> None:
    values = json.loads(fake_card().pack()) | {"sees_images": True}
    assert ModelCard.unpack(json.dumps(values)) == fake_card()


def test_timings_that_only_a_later_version_knows_are_passed_over() -> None:
    timings = EngineTimings(0.1, 0.2, 3, 4)
    spec = JobSpec("job", "key", "m", "low", SamplingSpec(5, 60, 1), "token", "request")
    told = Outcome(JobStatus.COMPLETED, timings=timings).to_fields()
    told["timings"] = json.dumps(json.loads(told["timings"]) | {"draft_s": 1.0})
    added = {"status": "completed", "created_ms": "5", "attempts": "1", "eid": "9"}
    assert JobRecord.from_fields("job", spec.to_fields() | added | told).timings == timings


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 10**6), TEXT, LOGPROBS), max_size=5),
    st.booleans(),
)
def test_token_events_come_back_whole(
    position: int, tokens: list[tuple[int, str, TokenLogprobs]], has_logprobs: bool
) -> None:
    event = TokenEvent(
        position,
        tuple(token_id for token_id, _, _ in tokens),
        tuple(text for _, text, _ in tokens),
        logprobs=tuple(found for _, _, found in tokens) if has_logprobs else (),
    )
    assert unpack_event(event.pack()) == event


def test_a_token_event_without_logprobs_has_no_room_for_them() -> None:
    assert TokenEvent(3, (5,), ("a",)).pack() == '{"c":0,"p":3,"i":[5],"t":["a"]}'
    found = (TokenLogprobs(-0.5, ((5, -0.5), (7, -2.0))),)
    packed = TokenEvent(3, (5,), ("a",), logprobs=found).pack()
    assert packed == '{"c":0,"p":3,"i":[5],"t":["a"],"l":[[-0.5,5,-0.5,7,-2.0]]}'


@given(SAMPLING, IDS, TEXT, st.none() | st.dictionaries(TEXT, TEXT, max_size=3))
def test_a_record_holds_all_that_was_submitted(
    sampling: SamplingSpec, ids: tuple[int, ...], user: str, metadata: dict[str, str] | None
) -> None:
    spec = JobSpec(
        *("job", "key", "model", "high"),
        sampling,
        *("token", "request"),
        prompt_ids=ids,
        user_id=user,
        metadata=metadata,
        reply=user,
    )
    added = {"status": "queued", "created_ms": "5", "attempts": "0", "eid": "0", "tag": "1"}
    record = JobRecord.from_fields("job", spec.to_fields() | added)
    assert (record.sampling, record.prompt_ids, record.user_id) == (sampling, ids, user)
    assert (record.metadata, record.prompt_tokens, record.reply) == (metadata, len(ids), user)


@pytest.mark.parametrize("found", [(), (TokenLogprobs(-0.5), TokenLogprobs(-1.5, ((1, -0.25),)))])
def test_a_record_holds_all_of_an_outcome(found: tuple[TokenLogprobs, ...]) -> None:
    choice = ChoiceResult("text", (1, 2), "stop", found)
    timings = EngineTimings(0.1, 0.2, 3, 4)
    of_prompt = (None, *found)
    outcome = Outcome(
        *(JobStatus.FAILED, (choice, choice), ("", ""), 7, timings, "EngineError", "why"), of_prompt
    )
    spec = JobSpec("job", "key", "m", "low", SamplingSpec(5, 60, 1), "token", "request")
    added = {"status": "failed", "created_ms": "5", "attempts": "1", "eid": "9"}
    record = JobRecord.from_fields("job", spec.to_fields() | added | outcome.to_fields())
    assert (record.choices, record.timings, record.prompt_tokens) == ((choice,) * 2, timings, 7)
    assert record.prompt_logprobs == of_prompt
    assert (record.error_type, record.error_message) == ("EngineError", "why")


def test_only_the_last_four_states_are_final() -> None:
    assert [s for s in JobStatus if not s.is_final] == ["queued", "processing"]
