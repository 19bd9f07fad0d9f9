"""What a gateway says and does where several models are configured."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.answers import HealthAnswer, ModelsAnswer
from common import keys
from common.connection import SyncRedis
from common.fleet import ServedModel, WorkerInfo
from common.job_store import Claims
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import Start
from tests.integration.api.support import MODEL, HandWorker

MODELS = [
    {"id": MODEL, "source": MODEL, "name": "Toy", "description": "A toy"},
    {"id": "big", "source": "org/big", "aliases": ["huge"], "format": "GGUF"},
    {"id": "encoder", "source": "org/encoder", "kind": "embed"},
]
ON_DEMAND = ServedModel("unloaded")
READY = ServedModel("ready")
BROKEN = ServedModel("error", "no such folder")
ALL_BROKEN = "; ".join(f"Model '{model}': no such folder" for model in (MODEL, "big", "encoder"))


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(models=json.dumps(MODELS))


async def model_of_job(http: httpx.AsyncClient, client: SyncRedis, **fields: Any) -> str:
    """Submit; the model of the record, in whose line the job has to be."""
    answer = await http.post("/generate", json={"prompt": "hello", **fields})
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["task_id"]
    model = str(client.hget(keys.job(task_id), "model"))
    assert client.zscore(keys.ready(model, "normal"), task_id) is not None
    return model


async def test_models_are_listed_as_configured_and_loaded_as_a_live_worker_has_them(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.publish(fake_card(MODEL))
    worker.announce("ready", big=ON_DEMAND)
    listed = (await (await start_app(settings)).get("/models")).json()
    ModelsAnswer.model_validate(listed)
    hub = "A model from the Hugging Face hub"
    assert listed == {
        "models": [
            {
                "id": MODEL,
                "name": "Toy",
                "description": "A toy",
                "format": "safetensors",
                "loaded": True,
            },
            {"id": "big", "name": "big", "description": hub, "format": "GGUF", "loaded": False},
            {
                "id": "encoder",
                "name": "encoder",
                "description": hub,
                "format": "unknown",
                "loaded": False,
            },
        ]
    }


async def test_a_model_that_is_described_as_the_users_document_prints_it_is_listed_so(
    start_app: Start, make_settings: Callable[..., Settings], worker: HandWorker
) -> None:
    # The single-model answer of 000_dd3c37f7e9e397a0.txt.
    model = {
        "id": "default",
        "name": "Default Model",
        "description": "Single model deployment",
        "format": "unknown",
    }
    worker.announce(default=READY)
    http = await start_app(make_settings(models=json.dumps([{**model, "source": "org/any"}])))
    listed = (await http.get("/models")).json()
    assert listed == {"models": [{**model, "loaded": True}]}


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({}, MODEL),
        ({"model": "big"}, "big"),
        ({"model_id": "big"}, "big"),
        ({"model_id": "huge"}, "big"),
    ],
)
async def test_a_job_goes_into_the_line_of_the_model_that_it_names_worker_or_not(
    http: httpx.AsyncClient, client: SyncRedis, fields: dict[str, str], model: str
) -> None:
    assert await model_of_job(http, client, **fields) == model


async def test_the_default_model_is_the_one_of_the_settings(
    start_app: Start, make_settings: Callable[..., Settings], client: SyncRedis
) -> None:
    http = await start_app(make_settings(models=json.dumps(MODELS), default_model="huge"))
    assert await model_of_job(http, client) == "big"
    assert (await http.get("/health")).json()["model"] == "big"


async def test_an_unknown_model_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.post("/generate", json={"prompt": "Hello", "model_id": "does-not-exist"})
    assert answer.status_code == 404
    assert answer.json()["error"] == "Model 'does-not-exist' not found"


async def test_a_model_that_makes_embeddings_does_not_generate(http: httpx.AsyncClient) -> None:
    answer = await http.post("/generate", json={"prompt": "Hello", "model": "encoder"})
    assert answer.status_code == 400
    assert answer.json()["error"] == "Model 'encoder' makes embeddings; it cannot generate"


@pytest.mark.parametrize(
    ("default", "big", "encoder", "status", "state", "loaded", "reason"),
    [
        (READY, READY, READY, "healthy", "ready", True, None),
        (READY, ON_DEMAND, ON_DEMAND, "healthy", "ready", True, None),
        (ON_DEMAND, READY, READY, "healthy", "ready", False, None),
        (READY, READY, BROKEN, "degraded", "ready", True, "Model 'encoder': no such folder"),
        (BROKEN, READY, READY, "degraded", "error", False, f"Model '{MODEL}': no such folder"),
        (BROKEN, BROKEN, BROKEN, "unhealthy", "error", False, ALL_BROKEN),
        (
            *(READY, ServedModel("loading"), READY),
            *("degraded", "ready", True, "Model 'big': The model is loading."),
        ),
    ],
)
async def test_health_is_that_of_all_models_and_names_the_one_that_is_ill(
    start_app: Start,
    settings: Settings,
    worker: HandWorker,
    default: ServedModel,
    big: ServedModel,
    encoder: ServedModel,
    status: str,
    state: str,
    loaded: bool,
    reason: str | None,
) -> None:
    worker.announce(default.state, default.reason, big=big, encoder=encoder)
    http = await start_app(settings)
    body = (await http.get("/health")).json()
    HealthAnswer.model_validate(body)
    assert (body["status"], body["state"], body["model_loaded"]) == (status, state, loaded)
    assert body.get("reason") == reason
    assert (body["model"], body["available_models"]) == (MODEL, [MODEL, "big", "encoder"])
    assert (await http.get("/ready")).status_code == (503 if status == "unhealthy" else 200)


async def test_a_model_that_no_live_worker_serves_is_told(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.announce("ready", encoder=READY)
    body = (await (await start_app(settings)).get("/health")).json()
    assert (body["status"], body["reason"]) == (
        "degraded",
        "Model 'big': No worker serves the model.",
    )


async def test_health_names_all_that_is_wrong(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.announce("ready", big=BROKEN)
    body = (await (await start_app(settings)).get("/health")).json()
    assert (body["status"], body["reason"]) == (
        "degraded",
        "Model 'big': no such folder; Model 'encoder': No worker serves the model.",
    )


@pytest.fixture
async def stray(http: httpx.AsyncClient, make_settings: Callable[..., Settings]) -> str:
    """The id of a job of a model that was taken out of the settings afterwards."""
    answer = await http.post("/generate", json={"prompt": "hello", "model": "big"})
    assert answer.status_code == 202
    return str(answer.json()["task_id"])


async def test_jobs_of_a_model_that_was_taken_out_are_told_and_counted(
    start_app: Start, make_settings: Callable[..., Settings], worker: HandWorker, stray: str
) -> None:
    worker.announce("ready")
    http = await start_app(make_settings(models=json.dumps(MODELS[:1])))
    body = (await http.get("/health")).json()
    assert (body["status"], body["reason"], body["queue"]["size"]) == (
        "degraded",
        "1 task waits for 'big', which is not configured (MODELS).",
        1,
    )
    assert (await http.get("/v1/engine/stats")).json()["queue"]["by_model"]["big"] == {
        "high": 0,
        "normal": 1,
        "low": 0,
    }
    assert 'baton_num_requests_waiting{model="big"} 1.0' in (await http.get("/metrics")).text


async def test_jobs_of_a_model_that_a_worker_with_other_settings_serves_are_only_counted(
    start_app: Start, make_settings: Callable[..., Settings], worker: HandWorker, stray: str
) -> None:
    worker.announce("ready", big=READY)
    http = await start_app(make_settings(models=json.dumps(MODELS[:1])))
    body = (await http.get("/health")).json()
    assert (body["status"], body["queue"]["size"]) == ("healthy", 1)


async def test_a_job_of_a_model_that_was_taken_out_stays_queued_and_can_be_cancelled(
    start_app: Start, make_settings: Callable[..., Settings], worker: HandWorker, stray: str
) -> None:
    worker.announce("ready")
    http = await start_app(make_settings(models=json.dumps(MODELS[:1])))
    assert (await http.get(f"/status/{stray}")).json()["status"] == "queued"
    assert (await http.post(f"/tasks/{stray}/cancel")).json()["status"] == "cancelled"
    assert (await http.get(f"/status/{stray}")).json()["status"] == "cancelled"


async def test_the_jobs_in_line_are_counted_for_each_model(
    start_app: Start, settings: Settings, http: httpx.AsyncClient, client: SyncRedis
) -> None:
    for model in ("big", "huge", MODEL):
        await model_of_job(http, client, model=model)
    text = (await (await start_app(settings)).get("/metrics")).text
    waiting = {
        sample.labels["model"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "baton_num_requests_waiting"
    }
    assert waiting == {MODEL: 1, "big": 2, "encoder": 0}


async def test_a_model_that_was_loaded_once_keeps_its_tokenizer_when_it_is_unloaded(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.publish(fake_card("big"))
    worker.announce("ready", big=ON_DEMAND)
    http = await start_app(settings)
    answer = await http.post("/tokenize", json={"text": "abc", "model_id": "huge"})
    assert (answer.status_code, answer.json()["num_tokens"]) == (200, 3)
    ids = answer.json()["token_ids"]
    answer = await http.post("/detokenize", json={"token_ids": ids, "model_id": "big"})
    assert answer.json() == {"text": "abc"}


@pytest.mark.parametrize(
    ("model", "state", "advice"),
    [
        ("big", ON_DEMAND, "send it one to /generate, of one token, and try again"),
        ("encoder", ON_DEMAND, "send it one to /v1/embeddings and try again"),
        ("big", ServedModel("loading"), "one is loading it, try again"),
        ("big", None, "start a worker that serves it"),
    ],
)
async def test_a_tokenizer_that_is_not_known_yet_is_a_503_that_says_what_to_do(
    start_app: Start,
    settings: Settings,
    worker: HandWorker,
    model: str,
    state: ServedModel | None,
    advice: str,
) -> None:
    worker.announce("ready", **({} if state is None else {model: state}))
    answer = await (await start_app(settings)).post(
        "/tokenize", json={"text": "a", "model_id": model}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    message = answer.json()["error"]
    assert message.startswith(f"No worker has loaded '{model}' yet")
    assert message.endswith(f"{advice}.")


async def test_a_tokenizer_of_a_model_that_cannot_be_loaded_is_a_503_that_says_why_and_where(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.announce("ready", big=BROKEN)
    answer = await (await start_app(settings)).post(
        "/tokenize", json={"text": "a", "model_id": "big"}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"] == (
        "'big' cannot be loaded, so its tokenizer is not known: no such folder (worker by-hand on "
        "here; its log says more)."
    )


async def test_a_model_that_one_worker_failed_to_load_and_another_has_not_tried_is_said_to_be_so(
    start_app: Start, settings: Settings, client: SyncRedis
) -> None:
    for worker_id, state in (("first", ON_DEMAND), ("second", BROKEN)):
        info = WorkerInfo(worker_id, "here", 1, "0", "cpu", 2, 0, {"big": state})
        Claims(client, settings, worker_id).heartbeat(info.pack(), [])
    answer = await (await start_app(settings)).post(
        "/tokenize", json={"text": "a", "model_id": "big"}
    )
    assert answer.json()["error"] == (
        "'big' cannot be loaded, so its tokenizer is not known: no such folder (worker second on "
        "here; its log says more). Another worker has not tried yet, and will when a task comes."
    )
