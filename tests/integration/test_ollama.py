"""Jobs that Ollama runs: a worker's own threads, a real Redis, and a server that plays Ollama's
documented wire format (`tests/ollama_server.py`; no Ollama was run)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from common.errors import ModelLoadError
from common.grammar import GrammarSpec
from common.model_card import ModelCard
from common.schemas import Prompt
from common.settings import Settings
from tests.integration.upstream_worker import TIMEOUT_S, UpstreamWorker
from tests.ollama_server import CONTEXT_LENGTH, Model, OllamaServer, Turn, answer
from worker.backends import ollama_wire
from worker.backends.ollama_wire import OllamaWire
from worker.model_finder import ModelFinder
from worker.registry import ModelRegistry

CHAT = Prompt(messages=({"role": "user", "content": "hi"},))
WHOLE = answer(1, "hi", 20)

Serve = Callable[..., OllamaServer]
Work = Callable[..., UpstreamWorker]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that have the model `m`."""
    started: list[OllamaServer] = []

    def start(*turns: Turn, **options: Any) -> OllamaServer:
        server = OllamaServer(**({"models": {"m:latest": Model()}} | options))
        server.turns.extend(turns)
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture
def work(redis_url: str) -> Iterator[Work]:
    """Start workers whose model these servers run."""
    started: list[UpstreamWorker] = []

    def start(*servers: OllamaServer, num_ctx: int | None = None, **more: Any) -> UpstreamWorker:
        more = {"upstream_retry_s": 1.0} | more
        started.append(UpstreamWorker(redis_url, *servers, wire=OllamaWire(num_ctx), **more))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


def card_of(worker: UpstreamWorker) -> ModelCard:
    assert worker.host.card is not None
    return worker.host.card


@pytest.mark.parametrize("part", [1, 7, 100_000])
def test_an_answer_is_read_wherever_its_bytes_are_cut(serve: Serve, work: Work, part: int) -> None:
    worker = work(serve(part=part))
    record = worker.run(max_tokens=20)
    assert (record.status, record.choices[0].text) == ("completed", WHOLE)
    assert worker.texts_of_watcher(record.job_id) == ([WHOLE], 0)


def test_counts_and_durations_are_those_that_the_server_told(serve: Serve, work: Work) -> None:
    record = work(serve()).run(max_tokens=20)
    assert (record.prompt_tokens, record.completion_tokens) == (1, 20)
    assert record.counted_by == "upstream"
    timings = record.timings
    assert timings is not None
    assert (timings.prefill_s, timings.decode_s) == (0.342546, 4.535599)


@pytest.mark.parametrize(("max_tokens", "reason"), [(20, "length"), (100, "stop")])
def test_why_an_answer_ended_is_what_the_server_says(
    serve: Serve, work: Work, max_tokens: int, reason: str
) -> None:
    assert work(serve()).run(max_tokens=max_tokens).choices[0].finish_reason == reason


def test_a_stop_text_of_a_request_does_not_replace_the_models_own(serve: Serve, work: Work) -> None:
    server = serve()
    work(server).run(stop=("END",))
    _, body = server.requests.get(timeout=TIMEOUT_S)
    assert body["options"]["stop"] == ["END", "<|eot|>"]


def test_a_schema_is_sent_as_the_format(serve: Serve, work: Work) -> None:
    server = serve()
    work(server).run(CHAT, grammar=GrammarSpec("json_schema", '{"type": "object"}'))
    path, body = server.requests.get(timeout=TIMEOUT_S)
    assert (path, body["format"]) == ("/api/chat", {"type": "object"})


def test_thoughts_are_put_before_the_answer(serve: Serve, work: Work) -> None:
    server = serve(
        Turn(texts=("Four.",)), models={"m:latest": Model(capabilities=("completion", "thinking"))}
    )
    record = work(server).run(CHAT)
    assert record.choices[0].text == "<think>\nLet me see.\n</think>\n\nFour."


def test_thoughts_that_a_request_asks_for_are_shown_and_others_are_not(
    serve: Serve, work: Work
) -> None:
    model = Model(capabilities=("completion", "thinking"))
    worker = work(serve(*[Turn(texts=("Four.",))] * 2, models={"m:latest": model}))
    for wanted in (True, False):
        prompt = Prompt(messages=CHAT.messages, template_kwargs={"enable_thinking": wanted})
        assert ("Let me see." in worker.run(prompt).choices[0].text) == wanted


def test_each_choice_has_a_seed_of_its_own(serve: Serve, work: Work) -> None:
    server = serve()
    record = work(server).run(n=2, max_tokens=20)
    seeds = {server.requests.get(timeout=TIMEOUT_S)[1]["options"]["seed"] for _ in range(2)}
    assert {choice.text for choice in record.choices} == {answer(s, "hi", 20) for s in seeds}


def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(serve: Serve, work: Work) -> None:
    record = work(serve()).run(Prompt(text="word " * 5000, raw=True))
    assert (record.status, record.error_type) == ("failed", "ContextLengthError")


def test_the_operators_context_is_asked_for_and_announced(serve: Serve, work: Work) -> None:
    server = serve()
    worker = work(server, num_ctx=1024)
    worker.run()
    assert card_of(worker).context_length == 1024
    assert server.requests.get(timeout=TIMEOUT_S)[1]["options"]["num_ctx"] == 1024


def test_the_context_is_that_of_the_loaded_model_else_the_most_it_can_have(
    serve: Serve, work: Work
) -> None:
    assert card_of(work(serve())).context_length == 8192
    loaded = serve(models={"m:latest": Model(loaded_length=CONTEXT_LENGTH)})
    assert card_of(work(loaded, name="w2")).context_length == CONTEXT_LENGTH


def test_an_older_server_that_ignores_penalties_is_not_asked_for_them(
    serve: Serve, work: Work
) -> None:
    server = serve(version="0.24.0")
    record = work(server).run(presence_penalty=0.5)
    assert record.error_type == "InvalidRequestError"
    assert "presence_penalty" in (record.error_message or "")
    assert server.num_requests == 0


def test_a_server_that_would_cut_prompts_in_silence_is_not_used(serve: Serve, work: Work) -> None:
    worker = work(serve(version="0.9.6"))
    assert "0.9.6" in (worker.backend.away or "")
    assert "0.12.6" in (worker.backend.away or "")


def test_a_model_that_takes_its_time_to_load_is_waited_for(serve: Serve, work: Work) -> None:
    gate = threading.Event()
    server = serve(Turn(gate=gate))
    # Of silence within an answer it has enough after a second; before it there is no such limit.
    worker = work(server, engine_stall_s=1)
    job_id = worker.submit(max_tokens=20)
    task = worker.start_task()
    server.requests.get(timeout=TIMEOUT_S)
    task.join(2.0)
    gate.set()
    worker.join(task)
    assert worker.record(job_id).choices[0].text == WHOLE
    assert server.num_requests == 1


@pytest.mark.parametrize("ends", ["error", "cut", "early", "load"])
def test_an_answer_that_breaks_off_is_asked_for_again_and_goes_on(
    serve: Serve, work: Work, ends: Any
) -> None:
    server = serve(Turn(ends=ends, after=5))
    worker = work(server, upstream_retry_s=10.0)
    record = worker.run(max_tokens=20)
    assert (record.status, record.choices[0].text) == ("completed", WHOLE)
    assert worker.texts_of_watcher(record.job_id) == ([WHOLE], 0)
    assert server.num_requests == 2


def test_a_server_that_falls_silent_is_asked_again(serve: Serve, work: Work) -> None:
    server = serve(Turn(ends="silence", after=5))
    worker = work(server, engine_stall_s=1, upstream_retry_s=10.0)
    assert worker.run(max_tokens=20).choices[0].text == WHOLE
    assert server.left.get(timeout=TIMEOUT_S) == 0


def test_an_answer_that_comes_out_otherwise_restarts(serve: Serve, work: Work) -> None:
    server = serve(Turn(ends="cut", after=5, texts=("Other ", "words ") * 5))
    worker = work(server, upstream_retry_s=10.0)
    record = worker.run(max_tokens=20)
    assert worker.texts_of_watcher(record.job_id) == ([WHOLE], 1)


def test_what_the_server_says_of_its_failure_is_told(serve: Serve, work: Work) -> None:
    message = "model requires more system memory (9 GiB) than is available (5 GiB)"
    record = work(serve(*[Turn(500, message)] * 9)).run()
    assert record.error_type == "UpstreamError"
    assert message in (record.error_message or "")


def test_a_server_that_is_busy_is_asked_again(serve: Serve, work: Work) -> None:
    server = serve(Turn(503, "server busy, please try again. maximum pending requests exceeded"))
    assert work(server, upstream_retry_s=10.0).run(max_tokens=20).choices[0].text == WHOLE


def test_what_the_server_refuses_is_a_bad_request(serve: Serve, work: Work) -> None:
    record = work(serve(Turn(400, '"m" does not support thinking'))).run()
    assert record.error_type == "InvalidRequestError"
    assert "does not support thinking" in (record.error_message or "")


def test_an_answer_that_was_cut_because_it_repeats_itself_ends_by_its_length(
    serve: Serve, work: Work
) -> None:
    server = serve(Turn(ends="early", after=35, texts=(" la",) * 40))
    record = work(server).run()
    assert (record.status, record.choices[0].finish_reason) == ("completed", "length")
    assert record.choices[0].text == " la" * 35


def test_an_abort_closes_the_request(serve: Serve, work: Work) -> None:
    gate = threading.Event()
    server = serve(Turn(gate=gate, after=5))
    worker = work(server)
    job_id = worker.submit()
    task = worker.start_task()
    worker.wait_until_committed(job_id, 1)
    [held] = worker.held.all()
    worker.host.abort(held.run_id)
    worker.join(task)
    assert server.left.get(timeout=TIMEOUT_S) == 0
    gate.set()


def test_a_model_that_is_not_there_cannot_be_loaded_and_how_to_get_it_is_told(
    serve: Serve, work: Work
) -> None:
    with pytest.raises(ModelLoadError, match="`ollama pull m`"):
        work(serve(models={}))


def test_a_model_that_makes_embeddings_cannot_be_loaded(serve: Serve, work: Work) -> None:
    with pytest.raises(ModelLoadError, match="does not generate"):
        work(serve(models={"m:latest": Model(capabilities=("embedding",))}))


def test_a_model_that_is_removed_is_lost_and_its_job_fails_at_once(
    serve: Serve, work: Work
) -> None:
    server = serve()
    worker = work(server, upstream_retry_s=60.0)
    del server.models["m:latest"]
    record = worker.run()
    assert record.error_type == "UpstreamError"
    assert "`ollama pull m`" in (record.error_message or "")
    assert worker.models.lost() == ["m"]


def test_of_two_servers_the_one_that_has_the_model_is_asked(serve: Serve, work: Work) -> None:
    without, having = serve(models={}), serve()
    worker = work(without, having)
    assert [worker.run(max_tokens=20).choices[0].text for _ in range(2)] == [WHOLE, WHOLE]
    assert (without.num_requests, having.num_requests) == (0, 2)


def test_a_server_that_dies_is_away_until_it_is_back(
    serve: Serve, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve()
    worker = work(server)
    server.stop()
    worker.wait_until_away(is_away=True)
    assert worker.models.lost() == []  # it may have the model yet
    server.start()
    worker.wait_until_away(is_away=False)
    assert worker.run(max_tokens=20).choices[0].text == WHOLE


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server has told is asked for again at once."""
    monkeypatch.setattr(ollama_wire, "LOOK_S", 0.0)


class Finding:
    """A finder, what it serves, and what it told."""

    def __init__(self, *servers: OllamaServer) -> None:
        settings = Settings(
            model_backend="ollama",
            ollama_model="m",
            ollama_base_url=[server.url for server in servers],
        )
        self.registry = ModelRegistry([], 1)
        self.told: list[list[str]] = []
        self._finder = ModelFinder(
            self.registry, settings, OllamaWire(), lambda new: self.told.append([*new])
        )

    async def look(self) -> tuple[str, ...] | None:
        async with httpx.AsyncClient() as client:
            await self._finder.look(client)
        return self.registry.found


async def test_models_are_found_by_their_ids_and_those_that_only_embed_are_not(
    serve: Serve,
) -> None:
    embeds = Model(capabilities=("embedding",))
    finding = Finding(serve(models={"b:7b": Model(), "a:latest": Model(), "e:latest": embeds}))
    assert await finding.look() == ("a", "b:7b")
    assert finding.told == [["a", "b:7b"]]


async def test_models_of_several_servers_are_found_together(serve: Serve) -> None:
    one, other = serve(models={"a:latest": Model()}), serve(models={"b:latest": Model()})
    assert await Finding(one, other).look() == ("a", "b")


async def test_before_a_server_has_answered_nothing_is_said(serve: Serve) -> None:
    server = serve()
    server.stop()
    assert await Finding(server).look() is None


async def test_a_model_that_the_server_cannot_tell_of_holds_up_no_other(serve: Serve) -> None:
    server = serve(models={"a:latest": Model(), "b:latest": Model(is_broken=True)})
    assert await Finding(server).look() == ("a",)


@pytest.mark.usefixtures("always_looks")
async def test_a_model_that_is_removed_is_found_no_more(serve: Serve) -> None:
    server = serve()
    finding = Finding(server)
    assert await finding.look() == ("m",)
    del server.models["m:latest"]
    assert await finding.look() == ()
    assert finding.told == [["m"], []]


@pytest.mark.usefixtures("always_looks")
async def test_a_model_is_looked_at_in_detail_once_until_it_changes(serve: Serve) -> None:
    server = serve()
    finding = Finding(server)
    for _ in range(3):
        await finding.look()
    assert server.num_shown == 1
    server.models["m:latest"] = Model(capabilities=("embedding",), digest="d2")
    assert await finding.look() == ()
    assert server.num_shown == 2


@pytest.mark.usefixtures("always_looks")
async def test_a_server_that_goes_away_takes_no_model_with_it(serve: Serve) -> None:
    server = serve()
    finding = Finding(server)
    assert await finding.look() == ("m",)
    server.stop()
    assert await finding.look() == ("m",)
