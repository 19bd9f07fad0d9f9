"""What a gateway says and does of a model that another server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from api.answers import GeneratedAnswer, HealthAnswer
from common import keys
from common.connection import SyncRedis
from common.event_stream import Append, EventWriter
from common.events import NO_TOKEN_ID, TokenEvent
from common.fleet import FleetWriter
from common.model_card import ModelCard
from common.sampling import SamplingSpec
from common.schemas import ChoiceResult, JobStatus, Outcome
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import Start
from tests.integration.api.openai.support import TextWorker
from tests.integration.api.support import MODEL, HandWorker, eventually

CARD = replace(
    fake_card(MODEL),
    context_length=None,
    vocab_size=0,
    tokenizer_sha256=None,
    chat_template=None,
    parameters=("presence_penalty", "json_object"),
)
HI: list[Any] = [{"role": "user", "content": "hi"}]
AWAY = "The server that runs the model cannot be used: it cannot be reached."


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        model_backend="openai",
        model_name=MODEL,
        openai_base_url=["http://127.0.0.1:9/v1"],
        upstream_retry_s=1,
    )


@pytest.fixture
def publish(client: SyncRedis) -> Callable[[ModelCard], None]:
    return lambda card: FleetWriter(client).publish_card(card, None)


@pytest.fixture
async def http(
    start_app: Start,
    settings: Settings,
    worker: HandWorker,
    publish: Callable[[ModelCard], None],
) -> httpx.AsyncClient:
    """A gateway whose model is announced."""
    publish(CARD)
    worker.announce()
    return await start_app(settings)


async def until_degraded(http: httpx.AsyncClient) -> dict[str, Any]:
    """What `/health` says once the gateway has seen that the server is away."""
    while True:
        health: dict[str, Any] = (await http.get("/health")).json()
        if health["status"] == "degraded":
            return health
        await asyncio.sleep(0.05)


async def test_a_prompt_goes_into_the_record_as_it_came(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    answer = await http.post("/generate", json={"messages": HI, "presence_penalty": 1})
    record = client.hgetall(keys.job(answer.json()["task_id"]))
    assert '"content":"hi"' in record["prompt"]
    assert "prompt_ids" not in record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 3),
        ("min_p", 0.1),
        ("logprobs", True),
        ("response_format", {"type": "regex", "regex": "a+"}),
        ("chat_template_kwargs", {"a": 1}),
    ],
)
async def test_a_parameter_that_the_server_cannot_honour_is_a_bad_request_by_its_name(
    http: httpx.AsyncClient, field: str, value: Any
) -> None:
    body = {"model": MODEL, "messages": HI, field: value}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (field, "invalid_request")
    assert f"{field} " in error["message"]


async def test_a_call_that_has_to_be_made_needs_a_grammar_and_is_refused(
    http: httpx.AsyncClient,
) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    body = {"model": MODEL, "messages": HI, "tools": [tool], "tool_choice": "required"}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"
    assert "tool_choice" in answer.json()["error"]["message"]


async def test_a_prompt_of_token_ids_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/completions", json={"model": MODEL, "prompt": [1, 2]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


async def test_the_default_of_top_k_asks_for_nothing(
    http: httpx.AsyncClient, client: SyncRedis
) -> None:
    body = {"model": MODEL, "input": "hi", "background": True}
    answer = await http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    [job] = client.scan_iter(keys.JOB + "*")
    assert SamplingSpec.unpack(str(client.hget(job, "params"))).top_k == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"text": "hi"}),
        ("/batch/tokenize", {"texts": ["hi"]}),
        ("/detokenize", {"token_ids": [1]}),
    ],
)
async def test_tokens_of_its_tokenizer_are_not_told(
    http: httpx.AsyncClient, path: str, body: Any
) -> None:
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["param"]) == (400, "model")
    assert "Another server runs" in answer.json()["error"]


async def test_a_context_that_nobody_told_is_null(http: httpx.AsyncClient) -> None:
    [model] = (await http.get("/v1/models")).json()["data"]
    assert model["max_model_len"] is None


async def test_its_result_has_the_servers_counts_and_no_token_ids(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis
) -> None:
    task_id = (await http.post("/generate", json={"prompt": "hi"})).json()["task_id"]
    claim = worker.claim()
    event = TokenEvent(0, (NO_TOKEN_ID,), ("Hello.",))
    EventWriter(client).append([Append(task_id, claim.nonce, event, 5)])
    outcome = Outcome(
        JobStatus.COMPLETED,
        choices=(ChoiceResult("Hello.", (NO_TOKEN_ID,), "stop"),),
        tails=("",),
        prompt_tokens=7,
        completion_tokens=3,
        counted_by="upstream",
    )
    worker.claims.finish(task_id, claim.nonce, outcome, 5)
    result = (await http.get(f"/result/{task_id}")).json()
    GeneratedAnswer.model_validate(result)
    assert (result["result"], result["token_ids"], result["num_generated"]) == ("Hello.", [], 3)
    metrics = result["metrics"]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (7, 3)
    assert metrics["counted_by"] == "upstream"


async def test_while_its_server_is_away_the_service_is_degraded_and_says_why(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    worker.announce("loading", AWAY)
    health = await until_degraded(http)
    HealthAnswer.model_validate(health)
    assert (health["status"], health["state"], health["reason"]) == ("degraded", "loading", AWAY)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_for_a_server_that_is_away_gets_502_after_the_retry_budget(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis, stream: bool
) -> None:
    worker.announce("loading", AWAY)
    body = {"model": MODEL, "messages": HI, "stream": stream}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 502, answer.text
    assert answer.json()["error"]["code"] == "upstream_error"
    assert answer.headers["x-should-retry"] == "false"
    [job] = client.scan_iter(keys.JOB + "*")
    await eventually(lambda: client.hget(job, "status") == "cancelled")


async def test_a_task_is_taken_while_its_server_is_away_and_waits(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    worker.announce("loading", AWAY)
    await until_degraded(http)
    answer = await http.post("/generate", json={"prompt": "hi"})
    assert answer.status_code == 202
    status = (await http.get(f"/status/{answer.json()['task_id']}")).json()
    assert status["status"] == "queued"


async def test_a_job_that_its_server_failed_is_502_for_who_waits(
    http: httpx.AsyncClient, worker: HandWorker, client: SyncRedis, settings: Settings
) -> None:
    asking = asyncio.create_task(
        http.post("/v1/chat/completions", json={"model": MODEL, "messages": HI})
    )
    claim = await TextWorker(client, settings).next()
    failed = Outcome(JobStatus.FAILED, error_type="UpstreamError", error_message="it is away")
    worker.claims.finish(claim.record.job_id, claim.nonce, failed, 0)
    answer = await asking
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == "it is away"
