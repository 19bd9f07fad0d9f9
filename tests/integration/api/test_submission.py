"""What a route can ask the submitter for, beyond what `POST /generate` does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from api.gateway import Gateway
from api.job_request import JobRequest
from api.main import create_app
from api.submission import MAX_PROMPTS, Accepted
from common import keys
from common.connection import SyncRedis
from common.errors import InvalidRequestError, RateLimitError
from common.job_store import Idempotency
from common.sampling import MAX_CHOICES, MAX_PROMPT_LOGPROBS, SamplingSpec
from common.schemas import JobRecord, Prompt
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.support import MODEL, HandWorker

SAMPLING = SamplingSpec(max_tokens=3, time_limit_s=60, seed=7)
SAME = Idempotency("a" * 32, "b" * 32)
CONTEXT = MAX_PROMPT_LOGPROBS


@pytest.fixture
async def gateway(worker: HandWorker, settings: Settings) -> AsyncIterator[Gateway]:
    """One that knows the model."""
    worker.publish(fake_card(MODEL, context_length=CONTEXT))
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app.state.gateway


@pytest.fixture
async def early(settings: Settings) -> AsyncIterator[Gateway]:
    """One that no worker has told of the model yet."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app.state.gateway


def ask(*texts: str, sampling: dict[str, Any] | None = None, **changes: Any) -> JobRequest:
    prompts = tuple(Prompt(text=text, raw=True) for text in texts or ("abc",))
    request = JobRequest(prompts, replace(SAMPLING, **(sampling or {})), is_seeded=True)
    return replace(request, **changes)


async def submit(gateway: Gateway, request: JobRequest) -> Accepted:
    return await gateway.submitter.submit(request, "key", "request")


async def records(gateway: Gateway, accepted: Accepted) -> list[JobRecord]:
    return [await gateway.jobs.get(job.job_id, "key") for job in accepted.jobs]


async def refusal(gateway: Gateway, request: JobRequest) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as raised:
        await submit(gateway, request)
    return raised.value


async def test_several_prompts_are_a_group_of_jobs_in_their_order(gateway: Gateway) -> None:
    accepted = await submit(gateway, ask("a", "bc", "def"))
    assert [job.job_id for job in accepted.jobs] == [f"{accepted.group_id}-{i}" for i in range(3)]
    found = await records(gateway, accepted)
    assert [record.prompt_tokens for record in found] == [1, 2, 3]
    assert [record.sampling.seed for record in found] == [7, 7, 7]
    tokens = {job.stream_token for job in accepted.jobs}
    assert tokens == {record.stream_token for record in found}
    assert len(tokens) == 3


async def test_one_prompt_is_a_job_with_the_groups_own_id(gateway: Gateway) -> None:
    accepted = await submit(gateway, ask("a"))
    [job] = accepted.jobs
    assert job.job_id == accepted.group_id


async def test_without_a_seed_each_job_draws_its_own(gateway: Gateway) -> None:
    accepted = await submit(gateway, ask("a", "a", is_seeded=False))
    first, second = await records(gateway, accepted)
    assert first.sampling.seed != second.sampling.seed


async def test_a_repeat_gets_the_whole_group(gateway: Gateway) -> None:
    submitter = gateway.submitter
    first = await submitter.submit(ask("a", "b"), "key", "request", SAME)
    again = await submitter.submit(ask("a", "b"), "key", "request", SAME)
    assert again.is_replay
    assert not first.is_replay
    assert (again.group_id, again.jobs) == (first.group_id, first.jobs)


async def test_what_is_not_rated_is_taken_at_any_rate(
    worker: HandWorker, make_settings: Callable[..., Settings]
) -> None:
    app = create_app(make_settings(rate_limit_per_minute=1, rate_limit_burst=1))
    async with app.router.lifespan_context(app):
        gateway: Gateway = app.state.gateway
        await submit(gateway, ask("a", "b"))
        with pytest.raises(RateLimitError):
            await submit(gateway, ask())
        await submit(gateway, ask(is_rated=False))


async def test_token_ids_are_read_as_they_are(gateway: Gateway) -> None:
    request = ask(prompts=(Prompt(token_ids=(5, 0, 255)), Prompt(token_ids=(9,))))
    found = await records(gateway, await submit(gateway, request))
    assert [record.prompt_ids for record in found] == [(5, 0, 255), (9,)]


async def test_token_ids_wait_in_the_record_until_a_worker_knows_the_model(
    early: Gateway,
) -> None:
    request = ask(prompts=(Prompt(token_ids=(5, 6)),))
    [record] = await records(early, await submit(early, request))
    assert (record.prompt_ids, record.prompt) == (None, Prompt(token_ids=(5, 6)))


async def test_choices_and_scoring_reach_the_record(gateway: Gateway) -> None:
    sampling = {"n": 3, "prompt_logprobs": 2, "max_tokens": 0}
    [record] = await records(gateway, await submit(gateway, ask("abc", sampling=sampling)))
    assert (record.sampling.n, record.sampling.prompt_logprobs) == (3, 2)
    assert record.sampling.max_tokens == 0


async def test_a_prompt_that_fills_the_context_can_be_scored(gateway: Gateway) -> None:
    prompt = Prompt(token_ids=(1,) * CONTEXT)
    scoring = ask(prompts=(prompt,), sampling={"max_tokens": 0, "prompt_logprobs": 0})
    [record] = await records(gateway, await submit(gateway, scoring))
    assert record.prompt_tokens == CONTEXT
    error = await refusal(gateway, ask(prompts=(prompt,), sampling={"max_tokens": 1}))
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("request_", "param", "expected"),
    [
        (ask(prompts=()), "prompt", "1 to 128 prompts; got 0"),
        (ask(*["a"] * (MAX_PROMPTS + 1)), "prompt", "1 to 128 prompts; got 129"),
        (ask(sampling={"n": 0}), "n", "n must be 1 to 128; got 0"),
        (ask(sampling={"n": MAX_CHOICES + 1}), "n", "got 129"),
        (ask(*["a"] * 65, sampling={"n": 8}), "n", "at most 512 answers together; got 8 times 65"),
        (ask(sampling={"min_tokens": 4}), "min_tokens", "at most max_tokens; got 4 and 3"),
        (
            ask("abc", sampling={"max_tokens": None, "min_tokens": CONTEXT - 2}),
            "min_tokens",
            f"3 tokens and min_tokens is {CONTEXT - 2}: {CONTEXT + 1} together",
        ),
        (ask(sampling={"max_tokens": 0}), "max_tokens", "at least 1; got 0"),
        (
            ask("a" * (MAX_PROMPT_LOGPROBS // 2 + 1), sampling={"prompt_logprobs": 1}),
            "prompt_logprobs",
            "32769 tokens, and prompt_logprobs asks for 2",
        ),
        (ask(prompts=(Prompt(token_ids=()),)), "prompt", "at least one token"),
        (ask(prompts=(Prompt(token_ids=(3, 256)),)), "prompt", "from 0 to 255; got 256"),
        (ask(prompts=(Prompt(token_ids=(3, -1)),)), "prompt", "from 0 to 255; got -1"),
        (
            ask("a", "b" * CONTEXT, "c"),
            "prompt",
            f"Prompt 2 of 3: This model's maximum context length is {CONTEXT} tokens.",
        ),
    ],
)
async def test_what_cannot_be_run_is_refused_whole_and_says_why(
    gateway: Gateway, client: SyncRedis, request_: JobRequest, param: str, expected: str
) -> None:
    error = await refusal(gateway, request_)
    assert error.param == param
    assert expected in error.message
    assert client.keys(keys.JOB + "*") == []


@pytest.mark.parametrize(
    ("sampling", "name"),
    [({"max_tokens": CONTEXT}, "max_tokens"), ({"time_limit_s": 1e6}, "timeout")],
)
async def test_errors_call_fields_as_the_route_does(
    gateway: Gateway, sampling: dict[str, Any], name: str
) -> None:
    renamed = await refusal(gateway, ask(sampling=sampling, params={name: "its_own_name"}))
    assert renamed.param == "its_own_name"
    assert "its_own_name" in renamed.message
    assert name not in renamed.message
    assert (await refusal(gateway, ask(sampling=sampling))).param == name
