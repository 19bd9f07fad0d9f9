"""The output of a held job, choice by choice, until Redis has all of it."""

from __future__ import annotations

import math

import pytest

from common.events import TokenEvent
from common.job_store import Claim
from common.sampling import SamplingSpec
from common.schemas import EngineTimings, JobRecord, JobStatus
from common.token_logprobs import TokenLogprobs
from worker.backends.base import BackendEnd, Delta
from worker.held_jobs import HeldJob, HeldJobs

STOP = BackendEnd(JobStatus.COMPLETED, "stop", "tail", EngineTimings(1.0, 2.0, 3, 4))
LENGTH = BackendEnd(JobStatus.COMPLETED, "length", "", EngineTimings(2.0, 1.0, 5, 0))
CANCELLED = BackendEnd(JobStatus.CANCELLED, "cancelled")
TIMEOUT = BackendEnd(JobStatus.EXPIRED, "timeout", error_type="DeadlineExceededError")
ERROR = BackendEnd(JobStatus.FAILED, "error", error_type="EngineError", error_message="why")


def held_job(n: int, committed: list[TokenEvent] | None = None, **sampling: int) -> HeldJob:
    record = JobRecord(
        *("job", JobStatus.PROCESSING, "key", "m", "normal"),
        SamplingSpec(5, 60, 1, n=n, **sampling),
        *("token", "request", 0, 1, 0, 0, 250),
    )
    return HeldJob(Claim(record, "nonce"), (1, 2, 3), committed or [], 5)


def delta(
    choice: int, position: int, *ids: int, end: BackendEnd | None = None, used_s: float = 0.5
) -> Delta:
    texts = tuple(f"<{i}>" for i in ids)
    return Delta("nonce", position, ids, texts, used_s, end, choice=choice)


def event(choice: int, position: int, *ids: int) -> TokenEvent:
    return TokenEvent(position, ids, tuple(f"<{i}>" for i in ids), choice)


def test_what_is_unsent_is_one_event_for_each_choice_that_has_any() -> None:
    job = held_job(3)
    for each in (delta(0, 0, 5), delta(2, 0, 7), delta(0, 1, 6)):
        job.add(each)
    assert job.unsent == [event(0, 0, 5, 6), event(2, 0, 7)]
    job.choices[0].mark_committed(1)
    assert job.unsent == [event(0, 1, 6), event(2, 0, 7)]
    job.choices[0].mark_committed(2)
    job.choices[2].mark_committed(1)
    assert (job.unsent, job.num_committed) == ([], 3)


def test_a_job_begins_with_what_each_of_its_choices_had_committed() -> None:
    job = held_job(3, [event(0, 0, 5), event(2, 0, 7, 8), event(0, 1, 6)])
    assert [choice.committed_ids for choice in job.choices] == [(5, 6), (), (7, 8)]
    assert [choice.committed_text for choice in job.choices] == ["<5><6>", "", "<7><8>"]
    assert (job.num_committed, job.unsent) == (4, [])
    job.add(delta(1, 0, 9))
    job.add(delta(2, 2, 4))
    assert job.unsent == [event(1, 0, 9), event(2, 2, 4)]


@pytest.mark.parametrize("wrong", [delta(1, 0, 5), delta(1, 2, 5)])
def test_a_choice_that_skips_or_repeats_a_token_is_a_bug(wrong: Delta) -> None:
    job = held_job(2, [event(1, 0, 9), event(0, 0, 1, 2)])
    with pytest.raises(AssertionError, match="skipped or repeated"):
        job.add(wrong)


def test_it_ends_when_every_choice_has_and_has_the_text_of_each() -> None:
    job = held_job(2)
    job.add(delta(1, 0, 7, end=STOP))
    assert (job.outcome, job.is_doomed) == (None, False)
    job.add(delta(0, 0, 5, end=LENGTH))
    assert job.outcome is not None
    assert job.outcome.status is JobStatus.COMPLETED
    first, second = job.outcome.choices
    assert (first.text, first.token_ids, first.finish_reason) == ("<5>", (5,), "length")
    assert (second.text, second.token_ids, second.finish_reason) == ("<7>tail", (7,), "stop")
    assert job.outcome.tails == ("", "tail")
    assert job.outcome.timings == EngineTimings(2.0, 2.0, 5, 0)
    assert job.outcome.prompt_tokens == 3


@pytest.mark.parametrize(
    ("breach", "status", "reason"),
    [
        (ERROR, JobStatus.FAILED, "error"),
        (TIMEOUT, JobStatus.EXPIRED, "timeout"),
        (CANCELLED, JobStatus.CANCELLED, "cancelled"),
    ],
)
def test_the_first_choice_that_breaks_off_decides_how_the_job_ends(
    breach: BackendEnd, status: JobStatus, reason: str
) -> None:
    job = held_job(3)
    job.add(delta(0, 0, 5, end=STOP))
    job.add(delta(1, 0, 6, end=breach))
    assert job.is_doomed
    job.add(delta(2, 0, 7, end=CANCELLED))
    assert not job.is_doomed
    assert job.outcome is not None
    assert (job.outcome.status, job.outcome.error_type) == (status, breach.error_type)
    assert [choice.token_ids for choice in job.outcome.choices] == [(5,), (6,), (7,)]
    assert [choice.finish_reason for choice in job.outcome.choices] == ["stop", reason, reason]


def test_a_failure_before_the_first_token_has_no_choices() -> None:
    job = held_job(2)
    job.add(delta(0, 0, end=ERROR))
    job.add(delta(1, 0, end=CANCELLED))
    assert job.outcome is not None
    assert (job.outcome.status, job.outcome.choices) == (JobStatus.FAILED, ())


def test_its_time_is_that_of_the_choice_that_ran_longest() -> None:
    job = held_job(3)
    for choice, used_s in enumerate((0.5, 2.0, 1.0)):
        job.add(delta(choice, 0, 5, used_s=used_s))
    assert job.used_ms == 2000


def test_what_remains_is_that_of_all_choices_that_still_run_at_their_pace_together() -> None:
    job = held_job(3)
    assert job.remaining_s(0.0) == math.inf
    for choice in range(3):
        job.add(delta(choice, 0, 5))
    began = job._pace_since
    assert began is not None
    # 2 tokens since the first one, in 4 s: 2 s a token. 4 are left of each of two choices.
    job.add(delta(0, 1, end=STOP))
    assert job.remaining_s(began[0] + 4) == pytest.approx(2 * 4 * 2)


@pytest.mark.parametrize("ends_before_a_token", [False, True])
def test_the_logprobs_of_the_prompt_are_in_the_outcome_one_for_each_token(
    ends_before_a_token: bool,
) -> None:
    found = (TokenLogprobs(-1.0, ((2, -1.0),)), TokenLogprobs(-2.0, ((7, -0.5),)))
    job = held_job(1, prompt_logprobs=1)
    if ends_before_a_token:
        job.add(Delta("nonce", 0, (), (), 0.1, LENGTH, prompt_logprobs=found))
    else:
        job.add(Delta("nonce", 0, (5,), ("<5>",), 0.1, prompt_logprobs=found))
        job.add(delta(0, 1, end=STOP))
    assert job.outcome is not None
    assert job.outcome.prompt_logprobs == (None, *found)


def test_a_job_that_breaks_off_before_its_prompt_is_read_has_no_logprobs_of_it() -> None:
    job = held_job(1, prompt_logprobs=1)
    job.add(delta(0, 0, end=TIMEOUT))
    assert job.outcome is not None
    assert job.outcome.prompt_logprobs == ()


def test_work_is_lost_for_as_long_as_a_job_of_the_model_has_added_nothing() -> None:
    held, job = HeldJobs(), held_job(2, [event(0, 0, 5)])
    held.add(job)
    began_s = job.held_at_s
    assert held.lost_s("m", began_s + 3) == 3
    assert held.lost_s("another", began_s + 3) == 0
    job.add(delta(1, 0, 7))
    assert held.lost_s("m", began_s + 3) == 3  # Redis does not have it yet
    job.choices[1].mark_committed(1)
    assert held.lost_s("m", began_s + 3) == 0
