"""Answers that are asked for again: they go on without a seam, or the job restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from common import keys
from common.errors import RedisUnavailableError
from common.event_stream import Append, EventWriter
from common.events import NO_TOKEN_ID, TokenEvent
from common.schemas import Prompt
from tests.integration.upstream_worker import UpstreamWorker
from tests.scripted_upstream import Says, ScriptedUpstream

TEXTS = ("One ", "two ", "three ", "four.")
WHOLE = "".join(TEXTS)
OTHER = ("One ", "too ", "many.")
CHAT = Prompt(messages=({"role": "user", "content": "hi"},))

Serve = Callable[..., ScriptedUpstream]
Work = Callable[..., UpstreamWorker]


@pytest.mark.parametrize(
    "broken",
    [
        Says(TEXTS[:2], ends="cut"),
        Says(TEXTS[:2], ends="early"),
        Says(raw=b"data: {not JSON}\n\n"),
        Says(raw=b'data: {"choices": 7}\n\n'),
        Says(raw=b"\xff\xfe"),
        Says(raw=b'data: {"error": {"message": "oh", "type": "server_error"}}\n\n'),
        Says(raw=b"data: [DONE]\n\n"),
        Says(status=500, body={"error": {"message": "oh"}}),
        Says(status=503, body=b"<html>"),
        Says(status=429, body={}, headers={"Retry-After": "0"}),
        Says(status=302, body=b"", headers={"Location": "http://127.0.0.1/"}),
    ],
    ids=lambda says: f"{says.status}-{says.ends}-{(says.raw or b'')[:16]!r}",
)
def test_an_answer_that_breaks_is_asked_for_again_and_goes_on_without_a_seam(
    serve: Serve, work: Work, broken: Says
) -> None:
    upstream = serve(broken, Says(TEXTS))
    worker = work(upstream)
    record = worker.run()
    assert record.choices[0].text == WHOLE
    assert worker.texts_of_watcher(record.job_id) == ([WHOLE], 0)
    assert upstream.num_requests == 2


def test_pieces_that_are_cut_elsewhere_the_second_time_agree_all_the_same(
    serve: Serve, work: Work
) -> None:
    worker = work(
        serve(Says(("One t", "wo th"), ends="cut"), Says(("On", "e two three", " four.")))
    )
    record = worker.run()
    assert worker.texts_of_watcher(record.job_id) == (["One two three four."], 0)
    assert record.choices[0].text == "One two three four."


def test_an_answer_that_differs_restarts_the_job_for_its_watchers_too(
    serve: Serve, work: Work
) -> None:
    gate = threading.Event()
    upstream = serve(Says((*TEXTS[:2], "gate"), ends="cut", gate=gate), Says(OTHER))
    worker = work(upstream)
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    gate.set()
    worker.join(task)
    record = worker.record(job_id)
    assert record.choices[0].text == "".join(OTHER)
    assert worker.texts_of_watcher(job_id) == (["".join(OTHER)], 1)


def test_an_answer_that_ends_sooner_the_second_time_restarts_the_job(
    serve: Serve, work: Work
) -> None:
    gate = threading.Event()
    worker = work(serve(Says((*TEXTS[:2], "x"), ends="cut", gate=gate), Says(TEXTS[:1])))
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    gate.set()
    worker.join(task)
    assert worker.record(job_id).choices[0].text == "One "
    assert worker.texts_of_watcher(job_id) == (["One "], 1)


def test_when_one_choice_restarts_the_others_are_told_again_and_keep_their_text(
    serve: Serve, work: Work
) -> None:
    gate = threading.Event()
    first, second = Says((*TEXTS[:2], "x"), ends="cut", gate=gate), Says(TEXTS)
    worker = work(serve(first, second, Says(OTHER)))
    job_id = worker.submit(n=2)
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2, choice=0)
    worker.wait_until_committed(job_id, 4, choice=1)
    gate.set()
    worker.join(task)
    record = worker.record(job_id)
    assert [choice.text for choice in record.choices] == ["".join(OTHER), WHOLE]
    assert worker.texts_of_watcher(job_id) == (["".join(OTHER), WHOLE], 1)


def test_a_job_whose_answer_differs_each_time_fails_when_it_gets_nowhere(
    serve: Serve, work: Work
) -> None:
    wavering = [Says((f"{word} ", "and"), ends="cut") for word in ("One", "Two", "Six") * 200]
    worker = work(serve(*wavering), upstream_retry_s=1)
    record = worker.run()
    assert (record.status, record.error_type) == ("failed", "UpstreamError")


def test_a_job_goes_on_at_another_worker_where_it_was(serve: Serve, work: Work) -> None:
    gate = threading.Event()
    upstream = serve(Says((*TEXTS[:2], "x"), gate=gate), Says(("One two", " three ", "four.")))
    first, second = work(upstream), work(upstream, name="w2")
    job_id = first.submit()
    task = first.start_task()
    first.wait_until_committed(job_id, 2)
    first.runner.drain()
    first.join(task)
    second.join(second.start_task())
    gate.set()
    assert second.record(job_id).choices[0].text == WHOLE
    assert second.texts_of_watcher(job_id) == ([WHOLE], 0)


def test_a_job_that_another_worker_cannot_verify_restarts_there(serve: Serve, work: Work) -> None:
    gate = threading.Event()
    upstream = serve(Says((*TEXTS[:2], "x"), gate=gate), Says(OTHER))
    first, second = work(upstream), work(upstream, name="w2")
    job_id = first.submit()
    task = first.start_task()
    first.wait_until_committed(job_id, 2)
    first.runner.drain()
    first.join(task)
    second.join(second.start_task())
    gate.set()
    assert second.texts_of_watcher(job_id) == (["".join(OTHER)], 1)
    assert second.record(job_id).choices[0].text == "".join(OTHER)


def test_a_late_append_from_before_a_restart_commits_nothing(serve: Serve, work: Work) -> None:
    # Race: the reply of an append is lost, its connection is dropped, and the server reads it from
    # that connection only after the restart.
    gate = threading.Event()
    worker = work(serve(Says((*TEXTS[:2], "x"), gate=gate)))
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    [job] = worker.held.claims_of(job_id)
    late = Append(job_id, job.claim.nonce, TokenEvent(0, (NO_TOKEN_ID,), ("late",)), 0, job.epoch)
    worker.claims.restart(job_id, job.claim.nonce, job.epoch + 1)
    [answer] = EventWriter(worker.client).append([late])
    assert (answer.fenced, answer.committed) == (False, 0)
    worker.runner.drain()
    worker.join(task)
    gate.set()


def test_a_restart_that_is_repeated_after_new_output_voids_nothing(
    serve: Serve, work: Work
) -> None:
    gate = threading.Event()
    worker = work(serve(Says((*TEXTS[:2], "x"), gate=gate)))
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    [job] = worker.held.claims_of(job_id)
    worker.client.hset(keys.job(job_id), "epoch", 1)  # as if it had been done before
    worker.claims.restart(job_id, job.claim.nonce, 1)
    assert worker.record(job_id).completion_tokens == 2
    worker.client.hdel(keys.job(job_id), "epoch")
    worker.runner.drain()
    worker.join(task)
    gate.set()


def test_a_restart_whose_answer_is_lost_is_repeated_and_happens_once(
    serve: Serve, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Race: Redis does it, and goes away before it can say so.
    gate = threading.Event()
    worker = work(serve(Says((*TEXTS[:2], "x"), ends="cut", gate=gate), Says(OTHER)))
    restart, calls = worker.claims.restart, []

    def lose_the_first_answer(job_id: str, nonce: str, epoch: int = 0) -> None:
        restart(job_id, nonce, epoch)
        calls.append(epoch)
        if len(calls) == 1:
            raise RedisUnavailableError("gone")

    monkeypatch.setattr(worker.claims, "restart", lose_the_first_answer)
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    gate.set()
    worker.join(task)
    assert calls == [1, 1]
    assert worker.texts_of_watcher(job_id) == (["".join(OTHER)], 1)
