"""Jobs that other servers run: a worker's own threads, a real Redis, and servers by script."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common import keys
from common.errors import RedisUnavailableError
from common.event_stream import Append, EventWriter
from common.events import NO_TOKEN_ID, TokenEvent
from common.fleet import FleetWriter
from common.grammar import GrammarSpec
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


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers with a script."""
    started: list[ScriptedUpstream] = []

    def start(*script: Says, **options: Any) -> ScriptedUpstream:
        started.append(ScriptedUpstream(*script, **options))
        return started[-1]

    yield start
    for upstream in started:
        upstream.close()


@pytest.fixture
def work(redis_url: str) -> Iterator[Work]:
    """Start workers whose model these servers run."""
    started: list[UpstreamWorker] = []

    def start(*upstreams: ScriptedUpstream, **options: Any) -> UpstreamWorker:
        started.append(UpstreamWorker(redis_url, *upstreams, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


def test_a_job_has_the_text_and_the_token_counts_of_its_server(serve: Serve, work: Work) -> None:
    worker = work(serve(Says(TEXTS, "length", usage=(7, 9))))
    record = worker.run()
    assert (record.status, record.choices[0].text) == ("completed", WHOLE)
    assert record.choices[0].finish_reason == "length"
    assert (record.prompt_tokens, record.completion_tokens) == (7, 9)
    assert record.counted_by == "upstream"
    assert worker.texts_of_watcher(record.job_id) == ([WHOLE], 0)


def test_the_service_counts_the_tokens_that_the_server_told(serve: Serve, work: Work) -> None:
    worker = work(serve(Says(TEXTS, usage=(7, 9))))
    worker.run()
    counters = worker.client.hgetall(keys.COUNTERS)
    assert (counters["prompt_tokens"], counters["generation_tokens"]) == ("7", "9")


def test_where_the_server_does_not_count_its_pieces_do(serve: Serve, work: Work) -> None:
    record = work(serve(Says(TEXTS, usage=None))).run()
    assert (record.completion_tokens, record.counted_by) == (len(TEXTS), "pieces")


def test_the_request_has_what_the_job_asks_for(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS))
    work(upstream).run(temperature=0.5, top_p=0.25, top_k=7, seed=2**40 + 3, stop=("END",))
    path, body = upstream.requests.get(timeout=TIMEOUT_S)
    assert (path, body["prompt"]) == ("/v1/completions", "hi")
    told = {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p", "top_k")}
    assert told == {
        "model": MODEL,
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
    }
    assert (body["seed"], body["stop"]) == (3, ["END"])
    assert set(upstream.keys) == {"bearer secret"}


def test_a_prompt_that_is_not_raw_is_a_message_of_the_users(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS))
    record = work(upstream).run(Prompt(text="hi"))
    path, body = upstream.requests.get(timeout=TIMEOUT_S)
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert record.choices[0].text == WHOLE


def test_tools_are_told_as_texts(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS))
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    work(upstream).run(Prompt(messages=CHAT.messages, tools=(tool,)))
    _, body = upstream.requests.get(timeout=TIMEOUT_S)
    assert "tools" not in body
    assert '"look"' in body["messages"][0]["content"]


def test_a_schema_goes_on_as_a_response_format(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS))
    work(upstream).run(CHAT, grammar=GrammarSpec("json_schema", '{"type": "object"}'))
    _, body = upstream.requests.get(timeout=TIMEOUT_S)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_what_the_server_cannot_honour_is_a_bad_request_and_is_not_sent(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(TEXTS), owner="somebody")
    record = work(upstream).run(top_k=7)
    assert (record.status, record.error_type) == ("failed", "InvalidRequestError")
    assert "top_k" in (record.error_message or "")
    assert upstream.num_requests == 0


def test_the_choices_of_a_job_are_requests_with_seeds_of_their_own(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(TEXTS, usage=(7, 4)))
    record = work(upstream).run(n=3, seed=9)
    seeds = [upstream.requests.get(timeout=TIMEOUT_S)[1]["seed"] for _ in range(3)]
    assert [choice.text for choice in record.choices] == [WHOLE] * 3
    assert (record.prompt_tokens, record.completion_tokens) == (7, 12)
    assert len(set(seeds)) == 3
    assert 9 in seeds


def test_a_cancel_closes_the_request_at_once_and_keeps_what_came(serve: Serve, work: Work) -> None:
    upstream = serve(Says(TEXTS[:2], ends="silence"))
    worker = work(upstream)
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 2)
    [job] = worker.held.claims_of(job_id)
    worker.models.abort(job.run_id)
    assert upstream.left.get(timeout=TIMEOUT_S) == 0
    worker.join(task)
    record = worker.record(job_id)
    assert (record.status, record.choices[0].text) == ("cancelled", "One two ")


def test_a_job_over_its_time_limit_expires_and_its_request_is_closed(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(TEXTS[:2], ends="silence"))
    record = work(upstream).run(time_limit_s=0.3)
    assert (record.status, record.choices[0].finish_reason) == ("expired", "timeout")
    assert record.choices[0].text == "One two "
    assert record.used_ms >= 300
    assert upstream.left.get(timeout=TIMEOUT_S) == 0


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
    wavering = [Says((f"{word} ", "and"), ends="cut") for word in ("One", "Two", "Six") * 9]
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


def test_halves_of_a_character_are_joined_over_pieces(serve: Serve, work: Work) -> None:
    record = work(serve(Says(("a\ud83d", "\ude00b\ud83d")))).run()
    assert record.choices[0].text == "a😀b\N{REPLACEMENT CHARACTER}"


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


def test_jobs_of_servers_that_are_away_are_not_failed_by_the_reaper(
    serve: Serve, work: Work
) -> None:
    upstream = serve(Says(TEXTS))
    upstream.stop()
    worker = work(upstream)
    job_id = worker.submit()
    Reaping(worker.client, Settings()).reap()
    assert worker.record(job_id).status is JobStatus.QUEUED
