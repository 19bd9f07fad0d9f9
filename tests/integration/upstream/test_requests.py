"""What a server is asked, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable

from common import keys
from common.grammar import GrammarSpec
from common.schemas import Prompt
from tests.integration.upstream_worker import TIMEOUT_S, UpstreamWorker
from tests.scripted_upstream import MODEL, Says, ScriptedUpstream

TEXTS = ("One ", "two ", "three ", "four.")
WHOLE = "".join(TEXTS)
OTHER = ("One ", "too ", "many.")
CHAT = Prompt(messages=({"role": "user", "content": "hi"},))

Serve = Callable[..., ScriptedUpstream]
Work = Callable[..., UpstreamWorker]


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


def test_halves_of_a_character_are_joined_over_pieces(serve: Serve, work: Work) -> None:
    record = work(serve(Says(("a\ud83d", "\ude00b\ud83d")))).run()
    assert record.choices[0].text == "a😀b\N{REPLACEMENT CHARACTER}"
