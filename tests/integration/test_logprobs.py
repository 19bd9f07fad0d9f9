"""Log-probabilities are committed with their tokens: no death of a worker loses or doubles one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common import keys
from common.event_stream import Append
from common.events import TokenEvent, unpack_event
from common.job_store import Claim
from common.sampling import SamplingSpec
from common.token_logprobs import TokenLogprobs
from tests.integration.stores import KEY, Bench
from tests.integration.submitting import submit
from tests.integration.test_worker import TIMEOUT_S, WorkerUnderTest


@pytest.fixture
def worker(redis_url: str) -> Iterator[WorkerUnderTest]:
    worker = WorkerUnderTest(redis_url)
    yield worker
    worker.stop()


def asking(max_tokens: int, num_top: int | None) -> SamplingSpec:
    return SamplingSpec(max_tokens=max_tokens, time_limit_s=60, seed=1, logprobs=num_top)


def expected(num_tokens: int, num_top: int) -> tuple[TokenLogprobs, ...]:
    """What `FakeBackend` gives."""
    return tuple(
        TokenLogprobs(-n / 8, tuple((n + i, -n / 8 - i / 2) for i in range(num_top)))
        for n in range(num_tokens)
    )


def streamed(worker: WorkerUnderTest, job_id: str) -> list[TokenEvent]:
    events = [unpack_event(entry["d"]) for _, entry in worker.client.xrange(keys.events(job_id))]
    return [event for event in events if isinstance(event, TokenEvent)]


@pytest.mark.parametrize("num_top", [0, 3])
def test_a_job_that_goes_on_elsewhere_has_each_tokens_logprobs_once(
    worker: WorkerUnderTest, num_top: int
) -> None:
    job_id = submit(worker.client, sampling=asking(5, num_top))
    task = worker.start_task()
    worker.backend.submitted.get(timeout=TIMEOUT_S)
    worker.backend.step(2)
    worker.wait_until_committed(job_id, 2)
    worker.runner.drain()
    task.join(TIMEOUT_S)
    heir = WorkerUnderTest(worker.url)
    heir.run(steps=3)
    record = heir.record(job_id)
    heir.stop()
    assert record.choices[0].token_ids == (0, 1, 2, 3, 4)
    assert record.choices[0].logprobs == expected(5, num_top)
    events = streamed(worker, job_id)
    assert sum((event.logprobs for event in events), ()) == expected(5, num_top)
    assert all(len(event.logprobs) == len(event.token_ids) for event in events)


def test_who_did_not_ask_pays_nothing_for_it(worker: WorkerUnderTest) -> None:
    job_id = submit(worker.client, sampling=asking(3, None))
    worker.run(steps=3)
    assert worker.record(job_id).choices[0].logprobs == ()
    assert "logprobs" not in worker.client.hget(keys.job(job_id), "result")
    assert "logprobs" not in worker.client.hget(keys.job(job_id), "params")
    for _, entry in worker.client.xrange(keys.events(job_id)):
        assert '"l"' not in entry["d"]


def say(bench: Bench, claim: Claim, position: int, *tokens: int) -> tuple[TokenLogprobs, ...]:
    """Commit tokens with log-probabilities of as many digits as a backend gives."""
    found = tuple(
        TokenLogprobs(round(-0.317253 - n, 6), ((n, -0.1), (300_000, -9999.0))) for n in tokens
    )
    event = TokenEvent(position, tokens, ("x",) * len(tokens), logprobs=found)
    [answer] = bench.events.append([Append(claim.record.job_id, claim.nonce, event, 5)])
    assert not answer.fenced
    return found


async def test_an_end_without_a_worker_keeps_the_logprobs_that_were_committed(
    bench: Bench,
) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    first = say(bench, claim, 0, 5, 6)
    second = say(bench, claim, 2, 7)
    await bench.submissions.cancel(job_id, KEY)
    bench.let_lease_pass(job_id)
    bench.reap()
    [choice] = (await bench.record(job_id)).choices
    assert (choice.token_ids, choice.logprobs) == ((5, 6, 7), first + second)
    assert all(isinstance(each.logprob, float) for each in choice.logprobs)


async def test_a_restart_voids_the_logprobs_of_what_was_committed(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    say(bench, claim, 0, 5, 6)
    bench.claims.restart(job_id, claim.nonce)
    held = say(bench, claim, 0, 8)
    assert [event.logprobs for event in bench.events.committed(job_id)] == [held]
    await bench.submissions.cancel(job_id, KEY)
    bench.let_lease_pass(job_id)
    bench.reap()
    [choice] = (await bench.record(job_id)).choices
    assert (choice.token_ids, choice.logprobs) == ((8,), held)
