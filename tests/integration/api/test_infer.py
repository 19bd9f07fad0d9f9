"""`POST /infer`, with a worker that has a tiny real encoder and a scorer for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.answers import InferAnswer, ScoredAnswer, SubmitAnswer
from api.upload import body_limit
from common import keys
from common.connection import SyncRedis
from common.job_store import Claims
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, Start
from tests.integration.api.openai.test_waiting import hang_up, job_ids, status_of
from tests.integration.api.support import AS_BOB, HandWorker, eventually
from tests.integration.api.support import MODEL as GENERATES
from tests.integration.embedding_worker import MODEL, EmbeddingWorker
from tests.tiny_embedder import write_tiny_embedder
from tests.tiny_scorer import MODELS, write_tiny_scorer
from worker.engine.embedder import Embedder
from worker.scoring.offline import score_prompts
from worker.scoring.storage import CONFIG

PROMPTS = ["What is Python?", "Explain machine learning"]
BODY: dict[str, Any] = {
    "model": "dense_network/tiny",
    "models_to_score": list(MODELS),
    "prompts": PROMPTS,
    "batch_size": 128,
}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_tiny_embedder(tmp_path / "encoder")


@pytest.fixture
def settings(make_settings: Callable[..., Settings], encoder: Path, tmp_path: Path) -> Settings:
    models = [
        {"id": GENERATES, "source": "baton-toy"},
        {"id": MODEL, "path": str(encoder), "kind": "embed"},
    ]
    write_tiny_scorer(tmp_path / "scorers", encoder)
    return make_settings(models=json.dumps(models), device="cpu", scorers_dir=tmp_path / "scorers")


@pytest.fixture
def worker(settings: Settings, encoder: Path) -> Iterator[EmbeddingWorker]:
    with EmbeddingWorker(settings, encoder) as worker:
        yield worker


@pytest.fixture
async def live_http(worker: EmbeddingWorker, live: LiveGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with live.client() as http:
        await live.gateway.poller.has_polled.wait()
        yield http


async def scores(http: httpx.AsyncClient, **changes: Any) -> Any:
    response = await http.post("/infer", json=BODY | changes)
    assert response.status_code == 200, response.text
    InferAnswer.model_validate(response.json())
    return response.json()["scores"]


async def refused(http: httpx.AsyncClient, status: int, **changes: Any) -> Any:
    response = await http.post("/infer", json=BODY | changes)
    assert response.status_code == status, response.text
    return response.json()


async def test_the_scores_are_those_of_the_command_line(
    live_http: httpx.AsyncClient, settings: Settings
) -> None:
    found = await scores(live_http)
    assert list(found) == list(MODELS)
    expected = score_prompts(settings, "tiny", MODELS, PROMPTS, 1)
    for model in MODELS:
        assert found[model] == pytest.approx(expected[model], abs=1e-5)


async def test_models_and_prompts_keep_their_order(live_http: httpx.AsyncClient) -> None:
    found = await scores(live_http)
    turned = await scores(live_http, models_to_score=[*MODELS[::-1]], prompts=PROMPTS[::-1])
    assert list(turned) == list(MODELS[::-1])
    for model in MODELS:
        assert turned[model] == pytest.approx(found[model][::-1], abs=1e-5)


async def test_batches_of_1_and_of_1024_agree(live_http: httpx.AsyncClient) -> None:
    prompts = [f"{'word ' * (i % 12)}{i}" for i in range(60)]
    one = await scores(live_http, prompts=prompts, batch_size=1)
    many = await scores(live_http, prompts=prompts, batch_size=1024)
    for model in MODELS:
        assert one[model] == pytest.approx(many[model], abs=1e-5)


async def test_a_batch_holds_no_more_prompts_than_were_asked_for(
    live_http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    embed = Embedder.embed
    monkeypatch.setattr(
        Embedder, "embed", lambda self, rows: (sizes.append(len(rows)), embed(self, rows))[1]
    )
    await scores(live_http, prompts=["a", "b", "c", "d", "e"], batch_size=2)
    assert sorted(sizes) == [1, 2, 2]


async def test_a_model_that_is_named_twice_is_scored_once(live_http: httpx.AsyncClient) -> None:
    assert list(await scores(live_http, models_to_score=["gpt-4", "gpt-4"])) == ["gpt-4"]


async def test_a_prompt_that_is_longer_than_the_context_is_cut(
    live_http: httpx.AsyncClient, settings: Settings
) -> None:
    long = "a" * 500
    found = await scores(live_http, prompts=[long, long + "b"])
    expected = score_prompts(settings, "tiny", MODELS, [long], 1)
    for model in MODELS:
        assert found[model] == pytest.approx(expected[model] * 2, abs=1e-5)


async def test_a_body_of_several_megabytes_is_taken(live_http: httpx.AsyncClient) -> None:
    response = await live_http.post("/infer", json=BODY | {"prompts": ["word " * 300_000]})
    assert response.status_code == 200
    assert body_limit("/infer") == 16 << 20


async def test_respond_async_gives_a_task_whose_result_has_the_scores(
    live_http: httpx.AsyncClient, client: SyncRedis
) -> None:
    response = await live_http.post("/infer", json=BODY, headers={"Prefer": "respond-async"})
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    accepted = SubmitAnswer.model_validate(response.json())
    await eventually(lambda: status_of(client, accepted.task_id) == "completed")
    found = await live_http.get(accepted.result_url)
    result = ScoredAnswer.model_validate(found.json())
    assert result.scores == await scores(live_http)
    assert result.model == "dense_network/tiny"
    assert result.metrics.batch_size == 2
    assert (await live_http.get(accepted.result_url, headers=AS_BOB)).status_code == 404


async def test_a_wait_gives_the_scores_where_they_are_there_in_time(
    live_http: httpx.AsyncClient,
) -> None:
    response = await live_http.post("/infer", json=BODY, headers={"Prefer": "wait=60"})
    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=60"
    assert response.json()["scores"] == await scores(live_http)


async def test_a_wait_gives_a_task_that_goes_on_where_the_scores_are_not_there_in_time(
    live_http: httpx.AsyncClient, client: SyncRedis, worker: EmbeddingWorker
) -> None:
    worker.leave_alone()
    headers = {"Prefer": "respond-async, wait=0"}
    response = await live_http.post("/infer", json=BODY, headers=headers)
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=0"
    accepted = SubmitAnswer.model_validate(response.json())
    assert response.headers["Location"] == accepted.status_url
    await asyncio.to_thread(worker._runner.run_next, MODEL)
    await eventually(lambda: status_of(client, accepted.task_id) == "completed")
    found = (await live_http.get(accepted.result_url)).json()
    assert set(found["scores"]) == set(MODELS)


async def test_a_wait_that_ends_with_a_failure_is_the_error(
    live_http: httpx.AsyncClient, settings: Settings
) -> None:
    weights = settings.scorers_dir / "dense_network" / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    response = await live_http.post("/infer", json=BODY, headers={"Prefer": "wait=60"})
    assert response.status_code == 502


async def test_a_wait_of_no_whole_number_is_refused_and_nothing_is_submitted(
    live_http: httpx.AsyncClient, client: SyncRedis
) -> None:
    response = await live_http.post("/infer", json=BODY, headers={"Prefer": "wait=soon"})
    assert response.status_code == 400
    assert response.json()["param"] == "Prefer"
    assert job_ids(client) == []


# Bad input


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "tiny"}, "model"),
        ({"model": "random_forest/tiny"}, "model"),
        ({"model": "dense_network/"}, "model"),
        ({"model": "dense_network/../tiny"}, "model"),
        ({"model": "dense_network/..%2ftiny"}, "model"),
        ({"model": "dense_network/a/b"}, "model"),
        ({"model": "dense_network/.."}, "model"),
        ({"model": "dense_network/tiny\0"}, "model"),
        ({"model": "dense_network/" + "a" * 65}, "model"),
        ({"model": 3}, "model"),
        ({"models_to_score": []}, "models_to_score"),
        ({"models_to_score": [3]}, "models_to_score[0]"),
        ({"models_to_score": ["gpt-5"]}, "models_to_score"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [""]}, "prompts[0]"),
        ({"prompts": ["\ud800"]}, "prompts[0]"),
        ({"prompts": "one"}, "prompts"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1025}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"timeout": 1e9}, "timeout"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_bad_input_is_told_with_the_field(
    live_http: httpx.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    content = json.dumps(BODY | changes).encode()
    headers = {"Content-Type": "application/json"}
    response = await live_http.post("/infer", content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["param"] == param


async def test_an_unknown_candidate_is_told_with_the_known_ones(
    live_http: httpx.AsyncClient,
) -> None:
    error = (await refused(live_http, 400, models_to_score=["gpt-4", "gpt-5"]))["error"]
    assert "'gpt-3.5-turbo', 'gpt-4', 'claude-2'" in error
    assert "got 'gpt-5'" in error


async def test_too_many_scores_are_refused(live_http: httpx.AsyncClient) -> None:
    error = (await refused(live_http, 400, prompts=["p"] * 400_000))["error"]
    assert "1000000 at most; got 1200000" in error


async def test_an_unknown_scorer_is_not_found(live_http: httpx.AsyncClient) -> None:
    error = await refused(live_http, 404, model="dense_network/none")
    assert error["error"] == "Model 'dense_network/none' not found"
    assert error["error_type"] == "ScorerNotFoundError"


async def test_without_a_key_nothing_is_scored(live: LiveGateway) -> None:
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as http:
        assert (await http.post("/infer", json=BODY)).status_code == 401


# Scorers that come, change and go


async def test_a_scorer_that_is_trained_later_is_known_once_its_worker_has_told(
    live_http: httpx.AsyncClient,
    live: LiveGateway,
    worker: EmbeddingWorker,
    settings: Settings,
    encoder: Path,
) -> None:
    await refused(live_http, 404, model="dense_network/late")
    write_tiny_scorer(settings.scorers_dir, encoder, "late", models=["x", "y"])
    await asyncio.to_thread(worker.announce)
    await live.gateway.poller.poll()
    found = await scores(live_http, model="dense_network/late", models_to_score=["y"])
    assert list(found) == ["y"]


async def test_a_scorer_that_was_replaced_is_used_at_once(
    live_http: httpx.AsyncClient, settings: Settings, encoder: Path
) -> None:
    before = await scores(live_http)
    write_tiny_scorer(settings.scorers_dir, encoder, seed=9)
    after = await scores(live_http)
    assert after != before
    expected = score_prompts(settings, "tiny", MODELS, PROMPTS, 128)
    for model in MODELS:
        assert after[model] == pytest.approx(expected[model], abs=1e-5)


async def test_a_scorer_that_has_become_broken_is_used_as_it_was(
    live_http: httpx.AsyncClient, worker: EmbeddingWorker, live: LiveGateway, settings: Settings
) -> None:
    before = await scores(live_http)
    (settings.scorers_dir / "dense_network" / "tiny" / CONFIG).write_text("{")
    await asyncio.to_thread(worker.announce)
    await live.gateway.poller.poll()
    assert await scores(live_http) == before


async def test_a_scorer_that_was_never_sound_says_why_it_cannot_be_used(
    live_http: httpx.AsyncClient,
    worker: EmbeddingWorker,
    live: LiveGateway,
    settings: Settings,
    encoder: Path,
) -> None:
    path = write_tiny_scorer(settings.scorers_dir, encoder, "bad")
    (path / CONFIG).write_text("{")
    await asyncio.to_thread(worker.announce)
    await live.gateway.poller.poll()
    error = await refused(live_http, 503, model="dense_network/bad")
    assert "'dense_network/bad' cannot be used: config.json is wrong" in error["error"]


async def test_weights_that_are_cut_off_are_told_by_the_worker(
    live_http: httpx.AsyncClient, settings: Settings
) -> None:
    weights = settings.scorers_dir / "dense_network" / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    error = await refused(live_http, 502)
    assert "it may be cut off" in error["error"]


async def test_a_scorer_of_another_revision_of_the_encoder_is_refused(
    live_http: httpx.AsyncClient, settings: Settings, encoder: Path
) -> None:
    write_tiny_scorer(settings.scorers_dir, encoder, revision="0" * 64)
    error = await refused(live_http, 502)
    assert "trained with another revision of its encoder" in error["error"]


async def test_a_scorer_whose_encoder_is_not_served_says_so(
    live_http: httpx.AsyncClient,
    worker: EmbeddingWorker,
    live: LiveGateway,
    settings: Settings,
    tmp_path: Path,
) -> None:
    other = write_tiny_embedder(tmp_path / "other")
    write_tiny_scorer(settings.scorers_dir, other, "foreign")
    await asyncio.to_thread(worker.announce)
    await live.gateway.poller.poll()
    error = await refused(live_http, 503, model="dense_network/foreign")
    assert "none of the models that are served" in error["error"]


# Through the queue


async def test_a_client_that_hangs_up_cancels_its_task(
    live: LiveGateway,
    live_http: httpx.AsyncClient,
    client: SyncRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, go = threading.Event(), threading.Event()
    embed = Embedder.embed

    def slowly(self: Embedder, rows: Any) -> Any:
        began.set()
        assert go.wait(30)
        return embed(self, rows)

    monkeypatch.setattr(Embedder, "embed", slowly)
    try:
        asking = asyncio.create_task(
            live_http.post("/infer", json=BODY | {"prompts": ["a"] * 50, "batch_size": 1})
        )
        await asyncio.to_thread(began.wait, 30)
        await hang_up(asking)
        [job_id] = job_ids(client)
        await eventually(lambda: client.hexists(keys.job(job_id), "cancel"))
    finally:
        go.set()
    await eventually(lambda: status_of(client, job_id) == "cancelled")


async def test_a_task_whose_worker_dies_is_scored_by_the_next_one(
    live_http: httpx.AsyncClient,
    client: SyncRedis,
    settings: Settings,
    worker: EmbeddingWorker,
) -> None:
    dead = Claims(client, settings, "dies")
    worker.leave_alone()
    response = await live_http.post("/infer", json=BODY, headers={"Prefer": "respond-async"})
    task_id = response.json()["task_id"]
    claim = await asyncio.to_thread(dead.claim, {MODEL: "r"})
    assert claim is not None
    assert claim.record.job_id == task_id
    dead.release(task_id, claim.nonce)
    await asyncio.to_thread(worker._runner.run_next, MODEL)
    result = (await live_http.get(f"/result/{task_id}")).json()
    assert set(result["scores"]) == set(MODELS)


async def test_a_repeat_with_the_same_idempotency_key_gets_the_same_task(
    live_http: httpx.AsyncClient,
) -> None:
    headers = {"Prefer": "respond-async", "Idempotency-Key": "once"}
    first = (await live_http.post("/infer", json=BODY, headers=headers)).json()["task_id"]
    again = await live_http.post("/infer", json=BODY, headers=headers)
    assert again.json()["task_id"] == first
    other = await live_http.post("/infer", json=BODY | {"batch_size": 1}, headers=headers)
    assert other.status_code == 422


async def test_without_a_worker_a_task_waits_by_what_the_last_one_told(
    start_app: Start, settings: Settings, encoder: Path
) -> None:
    with EmbeddingWorker(settings, encoder):
        pass
    http = await start_app(settings)
    response = await http.post("/infer", json=BODY, headers={"Prefer": "respond-async"})
    assert response.status_code == 202
    await refused(http, 404, model="dense_network/none")


async def test_a_worker_that_tells_of_no_scorer_takes_back_nothing(
    start_app: Start, settings: Settings, encoder: Path, client: SyncRedis
) -> None:
    with EmbeddingWorker(settings, encoder):
        pass
    HandWorker(client, settings).announce()
    http = await start_app(settings)
    response = await http.post("/infer", json=BODY, headers={"Prefer": "respond-async"})
    assert response.status_code == 202
