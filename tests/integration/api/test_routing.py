"""`model: "auto"`: a scorer picks the model, by a worker that has a tiny real encoder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.answers import FailedAnswer, GeneratedAnswer
from api.openai.answers import Chat, Completion
from api.openai.responses.answers import ResponseAnswer
from api.stream_answers import ChatChunk, CompletionChunk, DoneEvent, ErrorEvent, TaskEvent
from common import keys
from common.connection import SyncRedis
from common.fleet import ServedModel
from common.schemas import JobStatus
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import LiveGateway
from tests.integration.api.openai.test_waiting import job_ids
from tests.integration.api.support import MODEL as TOY
from tests.integration.api.support import HandWorker, eventually
from tests.integration.embedding_worker import MODEL, EmbeddingWorker
from tests.tiny_embedder import write_tiny_embedder
from tests.tiny_scorer import write_tiny_scorer
from worker.scoring.offline import score_prompts

ROUTER = "dense_network/tiny"
KNOWN = (TOY, "huge", "elsewhere")
AUTO: dict[str, Any] = {"model": "auto", "router": ROUTER}
READY = ServedModel("ready")
OOM = ("EngineError", "out of memory")
BROKEN = ServedModel("error", "no such folder")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_tiny_embedder(tmp_path / "encoder")


@pytest.fixture
def settings(make_settings: Callable[..., Settings], encoder: Path, tmp_path: Path) -> Settings:
    models = [
        {"id": TOY, "source": "baton-toy", "cost": 0.5},
        {"id": "big", "source": "org/big", "aliases": ["huge"], "cost": 4},
        {"id": "unrated", "source": "org/unrated"},
        {"id": MODEL, "path": str(encoder), "kind": "embed"},
    ]
    write_tiny_scorer(tmp_path / "scorers", encoder, models=KNOWN)
    return make_settings(models=json.dumps(models), device="cpu", scorers_dir=tmp_path / "scorers")


@pytest.fixture
def scores_with(settings: Settings, encoder: Path) -> Iterator[EmbeddingWorker]:
    with EmbeddingWorker(settings, encoder) as worker:
        yield worker


@pytest.fixture
async def http(
    scores_with: EmbeddingWorker, worker: HandWorker, live: LiveGateway
) -> AsyncIterator[httpx.AsyncClient]:
    worker.publish(fake_card(TOY))
    worker.publish(fake_card("big"))
    worker.announce("ready", big=READY)
    async with live.client() as http:
        await live.gateway.poller.has_polled.wait()
        await live.gateway.poller.poll()
        yield http


def scores_of(settings: Settings, prompt: str) -> dict[str, float]:
    found = score_prompts(settings, "tiny", [TOY, "huge"], [prompt], 1)
    return {model: row[0] for model, row in found.items()}


def prompt_for(settings: Settings, model: str) -> str:
    """A prompt of which the scorer thinks this model best."""
    for index in range(500):
        scores = scores_of(settings, f"prompt {index * 37}")
        if max(scores, key=lambda name: scores[name]) == model:
            return f"prompt {index * 37}"
    raise AssertionError("the scorer never prefers it")


async def accepted(http: httpx.AsyncClient, **body: Any) -> str:
    response = await http.post("/generate", json=AUTO | body)
    assert response.status_code == 202, response.text
    return str(response.json()["task_id"])


def model_of(client: SyncRedis, task_id: str) -> str:
    return str(client.hget(keys.job(task_id), "model"))


async def refused(http: httpx.AsyncClient, status: int, **body: Any) -> str:
    response = await http.post("/generate", json=AUTO | {"prompt": "hello"} | body)
    assert response.status_code == status, response.text
    return str(response.json()["error"])


@pytest.mark.parametrize(("candidate", "model"), [(TOY, TOY), ("huge", "big")])
async def test_a_prompt_goes_to_the_served_model_with_the_best_score(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, candidate: str, model: str
) -> None:
    prompt = prompt_for(settings, candidate)
    assert model_of(client, await accepted(http, prompt=prompt)) == model


async def test_the_result_says_which_model_and_why(
    http: httpx.AsyncClient, settings: Settings, worker: HandWorker
) -> None:
    prompt = prompt_for(settings, TOY)
    task_id = await accepted(http, prompt=prompt)
    worker.run("fine")
    result = (await http.get(f"/result/{task_id}")).json()
    GeneratedAnswer.model_validate(result)
    assert result["model"] == TOY
    routing = result["routing"]
    assert routing["router"] == ROUTER
    assert (routing["candidate"], routing["model"]) == (TOY, TOY)
    assert routing["scores"] == pytest.approx(scores_of(settings, prompt), abs=1e-5)
    assert (routing["cost_weight"], routing["costs"]) == (0, {})


async def test_a_cost_weight_takes_the_models_costs_from_their_scores(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    task_id = await accepted(http, prompt=prompt_for(settings, "huge"), cost_weight=1)
    assert model_of(client, task_id) == TOY
    worker.run("fine")
    routing = (await http.get(f"/result/{task_id}")).json()["routing"]
    assert routing["costs"] == {TOY: 0.5, "huge": 4}
    assert routing["cost_weight"] == 1
    assert routing["scores"]["huge"] > routing["scores"][TOY]


async def test_models_that_no_worker_can_run_are_left_out_unless_there_are_no_others(
    http: httpx.AsyncClient,
    client: SyncRedis,
    settings: Settings,
    worker: HandWorker,
    live: LiveGateway,
) -> None:
    prompt = prompt_for(settings, "huge")
    worker.announce("ready", big=BROKEN)
    await live.gateway.poller.poll()
    assert model_of(client, await accepted(http, prompt=prompt)) == TOY
    worker.announce("error", "broken", big=BROKEN)
    await live.gateway.poller.poll()
    assert model_of(client, await accepted(http, prompt=prompt)) == "big"


async def test_of_a_conversation_the_router_reads_what_the_user_said_last(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings
) -> None:
    said = [("user", prompt_for(settings, TOY)), ("assistant", "Yes."), ("user", "")]
    for candidate, model in ((TOY, TOY), ("huge", "big")):
        said[-1] = ("user", prompt_for(settings, candidate))
        messages = [{"role": role, "content": content} for role, content in said]
        assert model_of(client, await accepted(http, messages=messages)) == model


async def test_the_routers_own_job_leaves_nothing_and_costs_no_rate(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    before = await http.post("/generate", json={"prompt": "hello", "model": TOY})
    after = await http.post("/generate", json=AUTO | {"prompt": "hello"})
    left = [int(r.headers["x-ratelimit-remaining-requests"]) for r in (before, after)]
    assert left[0] - left[1] <= 1
    assert set(job_ids(client)) == {r.json()["task_id"] for r in (before, after)}


async def test_a_repeat_with_the_same_idempotency_key_does_not_ask_the_router_again(
    http: httpx.AsyncClient, scores_with: EmbeddingWorker
) -> None:
    async def submitted() -> httpx.Response:
        body = AUTO | {"prompt": "hello"}
        return await http.post("/generate", json=body, headers={"Idempotency-Key": "once"})

    first = await submitted()
    scores_with.leave_alone()
    again = await submitted()
    assert again.json()["task_id"] == first.json()["task_id"]
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_the_result_of_a_failed_task_says_which_model_and_why(
    http: httpx.AsyncClient, settings: Settings, worker: HandWorker
) -> None:
    task_id = await accepted(http, prompt=prompt_for(settings, TOY))
    worker.end(worker.claim(), JobStatus.FAILED, error=OOM)
    result = (await http.get(f"/result/{task_id}")).json()
    FailedAnswer.model_validate(result)
    assert (result["model"], result["routing"]["model"]) == (TOY, TOY)
    assert result["routing"]["scores"].keys() == {TOY, "huge"}


async def test_a_wait_that_ends_with_a_failure_says_which_model_and_why(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    body = AUTO | {"prompt": prompt_for(settings, TOY)}
    asking = asyncio.create_task(http.post("/generate", json=body, headers={"Prefer": "wait=60"}))
    await eventually(lambda: client.zcard(keys.ready(TOY, "normal")) > 0)
    worker.end(worker.claim(), JobStatus.FAILED, error=OOM)
    result = (await asking).json()
    assert result["status"] == "error"
    assert (result["model"], result["routing"]["model"]) == (TOY, TOY)


async def test_the_result_of_an_expired_task_without_a_text_says_which_model_and_why(
    http: httpx.AsyncClient, settings: Settings, worker: HandWorker
) -> None:
    task_id = await accepted(http, prompt=prompt_for(settings, TOY))
    worker.end(worker.claim(), JobStatus.EXPIRED)
    result = (await http.get(f"/result/{task_id}")).json()
    FailedAnswer.model_validate(result)
    assert (result["state"], result["model"]) == ("expired", TOY)
    assert result["routing"]["model"] == TOY


async def test_the_result_of_a_cancelled_task_says_which_model_and_why(
    http: httpx.AsyncClient, settings: Settings
) -> None:
    task_id = await accepted(http, prompt=prompt_for(settings, TOY))
    await http.post(f"/tasks/{task_id}/cancel")
    result = (await http.get(f"/result/{task_id}")).json()
    assert result["status"] == "cancelled"
    assert (result["model"], result["routing"]["model"]) == (TOY, TOY)


def events_of(response: httpx.Response) -> list[Any]:
    """The data of a stream's events, but for the mark of its end."""
    lines = response.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def test_the_last_event_of_a_token_stream_says_which_model_and_why(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    body = AUTO | {"prompt": prompt_for(settings, TOY)}
    asking = asyncio.create_task(http.post("/stream/generate", json=body))
    await run_next(worker, client)
    response = await asking
    [*tokens, done] = events_of(response)
    assert [set(event) for event in tokens] == [{"token"}]
    routing = DoneEvent.model_validate(done).routing
    assert routing is not None
    assert routing.model == response.headers["X-Baton-Model"] == TOY


async def test_a_token_stream_that_breaks_off_says_which_model_and_why(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    body = AUTO | {"prompt": prompt_for(settings, TOY)}
    asking = asyncio.create_task(
        http.send(http.build_request("POST", "/stream/generate", json=body), stream=True)
    )
    await eventually(lambda: client.zcard(keys.ready(TOY, "normal")) > 0)
    claim = worker.claim()
    worker.say(claim, "half")
    response = await asking  # with the first token
    worker.end(claim, JobStatus.FAILED, error=OOM)
    await response.aread()
    failed = ErrorEvent.model_validate(events_of(response)[-1])
    assert failed.routing is not None
    assert failed.routing.model == TOY


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
async def test_the_last_event_of_a_tasks_stream_says_which_model_and_why(
    http: httpx.AsyncClient, settings: Settings, worker: HandWorker, status: JobStatus
) -> None:
    task_id = await accepted(http, prompt=prompt_for(settings, TOY))
    claim = worker.claim()
    worker.say(claim, "fine")
    worker.end(claim, status)
    last = TaskEvent.model_validate(events_of(await http.get(f"/stream/{task_id}"))[-1])
    assert last.routing is not None
    assert last.routing.model == TOY


async def test_every_answer_to_a_routed_submission_names_the_model_in_a_header(
    http: httpx.AsyncClient, settings: Settings, worker: HandWorker, client: SyncRedis
) -> None:
    body = AUTO | {"prompt": prompt_for(settings, TOY)}
    headers = {"Idempotency-Key": "once"}
    first = await http.post("/generate", json=body, headers=headers)
    again = await http.post("/generate", json=body, headers=headers)
    assert again.headers["Idempotent-Replayed"] == "true"
    worker.run("fine")
    asking = asyncio.create_task(http.post("/v1/completions", json=body))
    await eventually(lambda: client.zcard(keys.ready(TOY, "normal")) > 0)
    worker.end(worker.claim(), JobStatus.FAILED, error=OOM)
    failed = await asking
    assert [r.status_code for r in (first, again, failed)] == [202, 202, 500]
    assert {r.headers["X-Baton-Model"] for r in (first, again, failed)} == {TOY}


async def test_an_answer_to_a_submission_that_is_not_routed_has_no_such_header(
    http: httpx.AsyncClient,
) -> None:
    response = await http.post("/generate", json={"prompt": "hello", "model": TOY})
    assert "X-Baton-Model" not in response.headers


# OpenAI's endpoints


async def run_next(worker: HandWorker, client: SyncRedis) -> None:
    await eventually(lambda: client.zcard(keys.ready(TOY, "normal")) > 0)
    worker.run("fine")


async def test_a_chat_says_which_model_and_why(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    content = [{"type": "text", "text": prompt_for(settings, TOY)}]
    body = AUTO | {"messages": [{"role": "user", "content": content}]}
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
    await run_next(worker, client)
    answer = (await asking).json()
    Chat.model_validate(answer)
    assert answer["model"] == TOY
    assert answer["routing"]["candidate"] == TOY


async def test_a_stream_says_it_with_the_usage(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    body = AUTO | {
        "messages": [{"role": "user", "content": prompt_for(settings, TOY)}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
    await run_next(worker, client)
    lines = [line[6:] for line in (await asking).text.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    assert {chunk["model"] for chunk in chunks} == {TOY}
    assert [chunk["routing"]["model"] for chunk in chunks if "routing" in chunk] == [TOY]


STREAMS = [
    ("/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]}),
    ("/v1/completions", lambda text: {"prompt": text}),
]


@pytest.mark.parametrize(("path", "body_of"), STREAMS)
async def test_a_stream_without_usage_says_it_with_the_finish_reason(
    http: httpx.AsyncClient,
    client: SyncRedis,
    settings: Settings,
    worker: HandWorker,
    path: str,
    body_of: Callable[[str], dict[str, Any]],
) -> None:
    body = AUTO | body_of(prompt_for(settings, TOY)) | {"stream": True}
    asking = asyncio.create_task(http.post(path, json=body))
    await run_next(worker, client)
    response = await asking
    kind = ChatChunk if "chat" in path else CompletionChunk
    chunks = [kind.model_validate(data) for data in events_of(response)]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.routing] == ["stop"]
    assert response.headers["X-Baton-Model"] == TOY


async def test_a_completion_of_one_prompt_is_routed_and_several_are_refused(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    body = AUTO | {"prompt": prompt_for(settings, TOY)}
    asking = asyncio.create_task(http.post("/v1/completions", json=body))
    await run_next(worker, client)
    answer = (await asking).json()
    Completion.model_validate(answer)
    assert answer["routing"]["model"] == TOY
    for prompt, said in ((["a", "b"], "router goes with one prompt; got 2"), ([1, 2], "a text")):
        response = await http.post("/v1/completions", json=AUTO | {"prompt": prompt})
        assert response.status_code == 400
        assert said in response.json()["error"]["message"]
        assert response.json()["error"]["param"] == "router"


async def test_a_response_says_which_model_and_why(
    http: httpx.AsyncClient, client: SyncRedis, settings: Settings, worker: HandWorker
) -> None:
    body = AUTO | {"input": prompt_for(settings, TOY)}
    asking = asyncio.create_task(http.post("/v1/responses", json=body))
    await run_next(worker, client)
    answer = (await asking).json()
    ResponseAnswer.model_validate(answer)
    assert (answer["model"], answer["routing"]["model"]) == (TOY, TOY)


# Bad input


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": TOY}, "router goes with model: auto"),
        ({"router": "tiny"}, "must be dense_network/NAME"),
        ({"router": "dense_network/../tiny"}, "must be dense_network/NAME"),
        ({"router": None}, "model auto goes with a router"),
        ({"router": None, "model": TOY, "cost_weight": 1}, "cost_weight goes with router"),
        ({"cost_weight": -1}, "cost_weight must be at least 0"),
        ({"prompt": None, "messages": [{"role": "system", "content": "hi"}]}, "needs a text"),
    ],
)
async def test_bad_input_is_told(http: httpx.AsyncClient, body: dict[str, Any], said: str) -> None:
    assert said in await refused(http, 400, **body)


async def test_an_unknown_router_is_not_found(http: httpx.AsyncClient) -> None:
    assert "'dense_network/none' not found" in await refused(http, 404, router="dense_network/none")


async def test_a_router_that_knows_no_served_model_says_what_it_knows(
    http: httpx.AsyncClient,
    scores_with: EmbeddingWorker,
    settings: Settings,
    encoder: Path,
    live: LiveGateway,
) -> None:
    write_tiny_scorer(settings.scorers_dir, encoder, "foreign", models=("gpt-4", "claude-2"))
    await asyncio.to_thread(scores_with.announce)
    await live.gateway.poller.poll()
    error = await refused(http, 400, router="dense_network/foreign")
    assert "'dense_network/foreign' knows gpt-4, claude-2" in error


async def test_a_router_that_cannot_be_used_says_why(
    http: httpx.AsyncClient, settings: Settings, encoder: Path
) -> None:
    write_tiny_scorer(settings.scorers_dir, encoder, models=KNOWN, revision="0" * 64)
    assert "another revision of its encoder" in await refused(http, 502)


async def test_a_router_that_does_not_answer_in_time_is_called_off(
    http: httpx.AsyncClient,
    scores_with: EmbeddingWorker,
    client: SyncRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores_with.leave_alone()
    monkeypatch.setattr("api.routing.ROUTE_LIMIT_S", 0.05)
    assert "did not answer within" in await refused(http, 504)
    [job_id] = job_ids(client)
    assert client.hget(keys.job(job_id), "status") == "cancelled"
