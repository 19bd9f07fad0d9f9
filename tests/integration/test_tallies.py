"""What the end of a job adds to the tallies, on a real Redis."""

from __future__ import annotations

import random

import pytest

from common import keys
from common.schemas import ChoiceResult, EngineTimings, JobStatus, Outcome
from common.tallies import EDGES_US, LATENCIES, Histogram, Tally
from tests.integration.stores import KEY, MODEL, Bench


async def tally(bench: Bench) -> Tally:
    return (await bench.fleet.snapshot([MODEL])).tallies.get(MODEL, Tally())


def text(tokens: int) -> str:
    """What `Bench.append` gives so many tokens."""
    return "".join(f"<{token}>" for token in range(tokens))


async def finished_after_cancel(bench: Bench, status: JobStatus, after_ms: int) -> None:
    """A job that ran, was cancelled, and ended so many milliseconds later."""
    job_id = await bench.submit()
    claim = bench.claim()
    await bench.submissions.cancel(job_id, KEY)
    asked_ms = int(bench.client.hget(keys.job(job_id), "cancel") or 0)
    times = {"cancel": asked_ms - after_ms, "created_ms": asked_ms - 9_000}
    bench.client.hset(keys.job(job_id), mapping=times)
    assert bench.claims.finish(job_id, claim.nonce, Outcome(status), 5) is None


def counts(tally: Tally) -> dict[str, int]:
    return {name: tally.latency(name).count for name in LATENCIES if tally.latency(name).count}


def bucket(histogram: Histogram) -> int:
    """The upper edge, in microseconds, of the one bucket with anything in it."""
    [index] = [index for index, count in enumerate(histogram.counts) if count]
    return EDGES_US[index]


def age(bench: Bench, job_id: str, **times_ms: int) -> None:
    """Move times of a job: so many milliseconds after its submission, which was an hour ago."""
    began = int(bench.client.hget(keys.job(job_id), "created_ms") or 0) - 3_600_000
    times = {f"{name}_ms": began + after for name, after in times_ms.items()}
    bench.client.hset(keys.job(job_id), mapping={"created_ms": began, **times})


async def finished(bench: Bench, tokens: int, timings: EngineTimings, **times_ms: int) -> str:
    """A completed job with so many tokens."""
    job_id = await bench.submit()
    claim = bench.claim()
    for position in range(tokens):
        bench.append(claim, position, position)
    age(bench, job_id, **times_ms)
    choices = (ChoiceResult(text(tokens), tuple(range(tokens)), "stop"),) if tokens else ()
    outcome = Outcome(JobStatus.COMPLETED, choices, ("",) * len(choices), 3, timings)
    assert bench.claims.finish(job_id, claim.nonce, outcome, 5) is None
    return job_id


async def test_a_job_with_known_times_lands_in_the_buckets_that_hold_them(bench: Bench) -> None:
    timings = EngineTimings(prefill_s=0.0451, decode_s=0.08, cached_tokens=2)
    await finished(bench, 5, timings, started=12, first_token=60)
    found = await tally(bench)
    assert found.jobs == {"completed": 1}
    assert found.tokens == {"prompt": 3, "cached": 2, "generation": 5}
    measured = [name for name in LATENCIES if name != "cancel"]
    assert counts(found) == dict.fromkeys(measured, 1) | {"inter_token": 4}
    sums = {name: found.latency(name).sum_us for name in measured}
    hour_us = 3_600_000_000
    assert hour_us <= sums.pop("end_to_end") < hour_us + 60_000_000
    assert sums == {
        "queue": 12_000,
        "prefill": 45_100,
        "decode": 80_000,
        "time_to_first_token": 60_000,
        "inter_token": 80_000,
    }
    edges = {name: bucket(found.latency(name)) for name in sums}
    assert edges == {
        "queue": 15_000,
        "prefill": 50_000,
        "decode": 100_000,
        "time_to_first_token": 75_000,
        "inter_token": 20_000,  # 80 ms over four gaps: an edge belongs to its own bucket
    }
    assert found.latency("end_to_end").counts[-1] == 1, "an hour is beyond the last edge"


async def test_a_report_that_is_repeated_counts_once(bench: Bench) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    for _ in range(2):
        assert bench.claims.finish(job_id, claim.nonce, Outcome(JobStatus.COMPLETED), 5) is None
    found = await tally(bench)
    assert (found.jobs, counts(found)) == ({"completed": 1}, {"queue": 1, "end_to_end": 1})


async def test_a_job_that_was_cancelled_in_line_has_no_latency(bench: Bench) -> None:
    await bench.submissions.cancel(await bench.submit(), KEY)
    found = await tally(bench)
    assert (found.jobs, found.tokens, counts(found)) == ({"cancelled": 1}, {}, {})


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.COMPLETED])
async def test_a_running_job_s_end_tells_how_long_its_cancel_took_whichever_end_it_is(
    bench: Bench, status: JobStatus
) -> None:
    await finished_after_cancel(bench, status, 2500)
    cancel = (await tally(bench)).latency("cancel")
    assert (cancel.count, bucket(cancel)) == (1, 3_000_000)
    assert cancel.sum_us >= 2_500_000


async def test_the_first_of_several_cancels_counts(bench: Bench) -> None:
    job_id = await bench.submit()
    bench.claim()
    await bench.submissions.cancel(job_id, KEY)
    first = bench.client.hget(keys.job(job_id), "cancel")
    bench.client.hset(keys.job(job_id), "cancel", int(first or 0) - 7)
    await bench.submissions.cancel(job_id, KEY)
    assert bench.client.hget(keys.job(job_id), "cancel") == str(int(first or 0) - 7)


async def test_a_cancel_without_a_time_of_an_earlier_version_tells_no_latency(
    bench: Bench,
) -> None:
    job_id = await bench.submit()
    claim = bench.claim()
    bench.client.hset(keys.job(job_id), "cancel", 1)
    bench.claims.finish(job_id, claim.nonce, Outcome(JobStatus.CANCELLED), 5)
    assert "cancel" not in counts(await tally(bench))


async def test_completed_jobs_are_counted_by_their_first_choice_s_finish_reason(
    bench: Bench,
) -> None:
    for status, *reasons in (
        (JobStatus.COMPLETED, "stop"),
        (JobStatus.COMPLETED, "length", "stop"),
        (JobStatus.COMPLETED, "stop", "length"),
        (JobStatus.COMPLETED,),  # as one that embeds
        (JobStatus.FAILED, "error"),
    ):
        job_id = await bench.submit()
        choices = tuple(ChoiceResult("", (), reason) for reason in reasons)
        outcome = Outcome(status, choices, ("",) * len(choices))
        bench.claims.finish(job_id, bench.claim().nonce, outcome, 5)
    assert (await tally(bench)).finish == {"stop": 2, "length": 1}


async def test_a_job_that_failed_has_waited_but_took_no_time_from_end_to_end(bench: Bench) -> None:
    job_id = await bench.submit()
    outcome = Outcome(JobStatus.FAILED, error_type="EngineError", error_message="no")
    bench.claims.finish(job_id, bench.claim().nonce, outcome, 5)
    found = await tally(bench)
    assert (found.jobs, counts(found)) == ({"failed": 1}, {"queue": 1})


async def test_a_job_of_two_workers_is_resumed_and_tells_no_time_between_tokens(
    bench: Bench,
) -> None:
    job_id = await bench.submit()
    first = bench.claim()
    for position in range(4):
        bench.append(first, position, position)
    bench.claims.release(job_id, first.nonce)
    choice = ChoiceResult(text(4), (0, 1, 2, 3), "stop")
    timings = EngineTimings(prefill_s=0.01, decode_s=0.01)
    outcome = Outcome(JobStatus.COMPLETED, (choice,), ("",), 3, timings)
    assert bench.claims.finish(job_id, bench.claim().nonce, outcome, 5) is None
    found = await tally(bench)
    assert found.jobs == {"completed": 1, "resumed": 1}
    assert "inter_token" not in counts(found)


async def test_a_clock_that_was_set_back_takes_nothing_away(bench: Bench) -> None:
    await finished(bench, 1, EngineTimings(), started=-5000, first_token=-4000)
    found = await tally(bench)
    assert (found.latency("queue").count, found.latency("queue").sum_us) == (1, 0)


async def test_no_figure_ever_goes_back(bench: Bench) -> None:
    draw = random.Random(7)
    before: dict[str, int] = {}
    for _ in range(60):
        job_id = await bench.submit()
        claim = bench.claim()
        tokens = draw.randrange(4)
        for position in range(tokens):
            bench.append(claim, position, position)
        fate = draw.choice(["complete", "fail", "release and cancel"])
        if fate == "release and cancel":
            bench.claims.release(job_id, claim.nonce)
            await bench.submissions.cancel(job_id, KEY)
        else:
            status = JobStatus.COMPLETED if fate == "complete" else JobStatus.FAILED
            choices = (ChoiceResult(text(tokens), tuple(range(tokens)), "stop"),) if tokens else ()
            timings = EngineTimings(prefill_s=draw.random(), decode_s=draw.random())
            outcome = Outcome(status, choices, ("",) * len(choices), 3, timings)
            assert bench.claims.finish(job_id, claim.nonce, outcome, 5) is None
        now = {
            name: int(value) for name, value in bench.client.hgetall(keys.tallies(MODEL)).items()
        }
        assert all(now.get(name, 0) >= value for name, value in before.items())
        assert sum(now.values()) > sum(before.values())
        before = now


async def test_a_gap_between_tokens_is_one_of_the_choice_that_ran_longest(bench: Bench) -> None:
    job_id = await bench.submit(n=2)
    claim = bench.claim()
    bench.append(claim, 0, 0)
    for position in range(5):
        bench.append(claim, position, position, choice=1)
    choices = tuple(ChoiceResult(text(n), tuple(range(n)), "stop") for n in (1, 5))
    timings = EngineTimings(decode_s=0.08)
    outcome = Outcome(JobStatus.COMPLETED, choices, ("", ""), 3, timings)
    assert bench.claims.finish(job_id, claim.nonce, outcome, 5) is None
    found = await tally(bench)
    assert (found.tokens["generation"], counts(found)["inter_token"]) == (6, 4)
    assert found.latency("inter_token").sum_us == 80_000
