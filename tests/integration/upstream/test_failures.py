"""Servers that refuse, fail, fall silent or are away, and who is asked instead."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from common import keys
from common.fleet import FleetWriter
from common.model_card import ModelCard
from common.reaping import Reaping
from common.schemas import JobStatus, Prompt
from common.settings import Settings
from tests.integration.upstream_worker import TIMEOUT_S, UpstreamWorker
from tests.scripted_upstream import CONTEXT_LENGTH, MODEL, Says, ScriptedUpstream

TEXTS = ("One ", "two ", "three ", "four.")
WHOLE = "".join(TEXTS)
OTHER = ("One ", "too ", "many.")
CHAT = Prompt(messages=({"role": "user", "content": "hi"},))

Serve = Callable[..., ScriptedUpstream]
Work = Callable[..., UpstreamWorker]


def test_a_server_that_dies_is_left_for_another_one(serve: Serve, work: Work) -> None:
    gate = threading.Event()
    dying, living = serve(Says((*TEXTS[:2], "x"), gate=gate)), serve(Says(TEXTS))
    worker = work(dying, living)
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    dying.stop()
    worker.join(task)
    gate.set()
    assert worker.record(job_id).choices[0].text == WHOLE
    assert worker.texts_of_watcher(job_id) == ([WHOLE], 0)
    assert living.num_requests == 1


def test_jobs_go_to_the_server_that_has_the_fewest(serve: Serve, work: Work) -> None:
    gate = threading.Event()
    upstreams = [serve(Says(TEXTS, gate=gate)) for _ in range(2)]
    worker = work(*upstreams)
    tasks = []
    for _ in range(4):
        job_id = worker.submit()
        tasks.append(worker.start_task())
        worker.wait_until_committed(job_id, 1)
    assert [upstream.num_requests for upstream in upstreams] == [2, 2]
    gate.set()
    for task in tasks:
        worker.join(task)


def test_with_no_server_left_a_running_job_fails_after_the_retry_budget(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(TEXTS[:2], ends="silence"))
    worker = work(upstream, upstream_retry_s=0.5)
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    upstream.stop()
    worker.join(task)
    record = worker.record(job_id)
    assert (record.status, record.error_type) == ("failed", "UpstreamError")
    assert record.choices[0].text == "One two "
    assert str(upstream.port) not in (record.error_message or "")


def test_while_no_server_is_there_jobs_are_not_claimed_and_wait(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS))
    upstream.stop()
    worker = work(upstream, upstream_retry_s=0)
    job_id = worker.submit()
    assert not worker.models.is_open(MODEL)
    announced = worker.models.announcements(is_consuming=True)[MODEL]
    assert (announced.state, bool(announced.reason)) == ("loading", True)
    assert worker.models.errors() == {}  # which would fail them
    upstream.start()
    worker.wait_until_away(is_away=False)
    worker.join(worker.start_task())
    assert worker.record(job_id).status is JobStatus.COMPLETED


def test_a_refusal_of_the_request_is_not_tried_again_and_says_why(serve: Serve, work: Work) -> None:
    body = {"error": {"message": "stop: at most 4", "type": "invalid_request_error"}}
    upstream = serve(Says(status=400, body=body))
    record = work(upstream).run()
    assert (record.status, record.error_type) == ("failed", "InvalidRequestError")
    assert "stop: at most 4" in (record.error_message or "")
    assert upstream.num_requests == 1


def test_a_prompt_that_the_server_finds_too_long_is_told_as_that(serve: Serve, work: Work) -> None:
    body = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    record = work(serve(Says(status=400, body=body))).run()
    assert record.error_type == "ContextLengthError"


def test_a_server_that_refuses_our_key_fails_the_job_at_once_and_is_an_error_in_the_log(
    serve: Serve, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = serve(Says(status=401, body={"error": {"message": "bad key: sec**"}}))
    record = work(upstream).run()
    assert (record.status, record.error_type) == ("failed", "UpstreamError")
    assert "key" in (record.error_message or "")
    assert "sec**" not in (record.error_message or "")
    [first, *_] = [r.levelno for r in caplog.records if "refuses our key" in r.message]
    assert first == logging.ERROR


def test_silence_in_the_middle_of_an_answer_counts_as_broken_off(serve: Serve, work: Work) -> None:
    worker = work(serve(Says(TEXTS[:2], ends="silence"), Says(TEXTS)), engine_stall_s=1)
    record = worker.run()
    assert worker.texts_of_watcher(record.job_id) == ([WHOLE], 0)


def test_a_server_that_shows_signs_of_life_is_not_silent(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS, beats=15))
    assert work(upstream, engine_stall_s=1).run().choices[0].text == WHOLE
    assert upstream.num_requests == 1


def test_a_server_that_is_well_may_take_its_time_for_the_first_text(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(ends="silence"))
    record = work(upstream, engine_stall_s=1).run(time_limit_s=2.5)
    assert record.status is JobStatus.EXPIRED
    assert upstream.num_requests == 1


def test_a_server_that_falls_ill_before_its_first_text_is_left(serve: Serve, work: Work) -> None:
    silent, living = serve(Says(ends="silence")), serve(Says(TEXTS))
    worker = work(silent, living, engine_stall_s=2)
    job_id = worker.submit()
    task = worker.start_task()
    silent.requests.get(timeout=TIMEOUT_S)
    silent.list_status = 500
    [upstream] = [each for each in worker.backend._pool.upstreams if each.base_url == silent.url]
    assert worker.backend._loop is not None
    worker.backend._loop.call_soon_threadsafe(upstream.look_again.set)
    worker.join(task)
    assert worker.record(job_id).choices[0].text == WHOLE


def test_servers_that_all_fail_at_once_are_not_asked_without_a_pause(
    serve: Serve, work: Work
) -> None:
    upstreams = [serve(Says(status=500, body={})) for _ in range(3)]
    record = work(*upstreams, upstream_retry_s=1).run()
    assert record.error_type == "UpstreamError"
    assert 3 < sum(upstream.num_requests for upstream in upstreams) < 12


def test_the_card_has_what_all_servers_tell_and_no_tokenizer(serve: Serve, work: Work) -> None:
    worker = work(serve(Says(TEXTS)), serve(Says(TEXTS), owner="openai"))
    card = ModelCard.unpack(str(worker.client.get(keys.card(MODEL))))
    assert (card.context_length, card.has_tokenizer) == (CONTEXT_LENGTH, False)
    assert card.parameters is not None
    assert "presence_penalty" in card.parameters
    assert "top_k" not in card.parameters  # only one of the two takes it


def test_the_card_is_told_when_the_first_server_comes(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS))
    upstream.stop()
    worker = work(upstream)
    assert worker.client.get(keys.card(MODEL)) is None
    upstream.start()
    worker.wait_until_away(is_away=False)
    worker.models.refresh(FleetWriter(worker.client))
    assert worker.client.get(keys.card(MODEL)) is not None


def test_jobs_of_servers_that_are_away_are_not_failed_by_the_reaper(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(TEXTS))
    upstream.stop()
    worker = work(upstream)
    job_id = worker.submit()
    Reaping(worker.client, Settings()).reap()
    assert worker.record(job_id).status is JobStatus.QUEUED
