from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.answers import HealthAnswer, ModelsAnswer, ReadyAnswer, RootAnswer
from common import __version__
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import LiveGateway, Start
from tests.integration.api.support import MODEL, HandWorker, submit

OTHER_HOST = re.compile(r"""(?:src|href|url)\s*[=(:]\s*["']?(?:https?:)?//""")


async def health(http: httpx.AsyncClient) -> dict[str, object]:
    response = await http.get("/health")
    assert response.status_code == 200
    HealthAnswer.model_validate(response.json())
    body: dict[str, object] = response.json()
    return body


async def test_a_service_with_a_loaded_model_is_healthy(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.announce(gpu_memory={"used": 3, "total": 8})
    body = await health(await start_app(settings))
    assert isinstance(body.pop("uptime_seconds"), float)
    assert body == {
        "status": "healthy",
        "state": "ready",
        "mode": "api_server",
        "version": __version__,
        "redis_connected": True,
        "model_loaded": True,
        "backend": "transformers",
        "model": MODEL,
        "available_models": [MODEL],
        "workers": 1,
        "gpu_memory": {"used": 3, "total": 8},
        "queue": {"size": 0, "capacity": 100_000},
    }


async def test_a_service_without_a_worker_is_degraded(http: httpx.AsyncClient) -> None:
    body = await health(http)
    assert (body["status"], body["state"]) == ("degraded", "loading")
    assert (body["model_loaded"], body["workers"], body["gpu_memory"]) == (False, 0, None)
    assert body["reason"] == "No worker is running."


async def test_a_service_whose_model_loads_is_degraded(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.announce("loading")
    body = await health(await start_app(settings))
    assert (body["status"], body["state"]) == ("degraded", "loading")
    assert body["reason"] == "The model is loading."


async def test_a_model_that_no_worker_can_load_is_an_error_with_its_reason(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    worker.announce("error", "no such folder")
    body = await health(await start_app(settings))
    assert (body["status"], body["state"]) == ("unhealthy", "error")
    assert body["reason"] == "no such folder"


async def test_health_tells_how_many_jobs_wait(
    start_app: Start, settings: Settings, http: httpx.AsyncClient
) -> None:
    await submit(http)
    body = await health(await start_app(settings))
    assert body["queue"] == {"size": 1, "capacity": 100_000}


@pytest.mark.parametrize("path", ["/ready", "/health/ready"])
@pytest.mark.parametrize(
    ("state", "status", "connected"),
    [("ready", 200, True), ("loading", 503, True), (None, 503, False)],
)
async def test_readiness_is_that_of_the_model(
    start_app: Start,
    settings: Settings,
    worker: HandWorker,
    path: str,
    state: str | None,
    status: int,
    connected: bool,
) -> None:
    if state is not None:
        worker.announce(state)
    response = await (await start_app(settings)).get(path)
    assert response.status_code == status
    assert response.json() == {"ready": status == 200, "engine_connected": connected}
    ReadyAnswer.model_validate(response.json())


async def test_a_gateway_that_answers_is_alive(http: httpx.AsyncClient) -> None:
    response = await http.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


async def test_the_models_are_listed_whether_loaded_or_not(
    start_app: Start, settings: Settings, worker: HandWorker
) -> None:
    before = (await (await start_app(settings)).get("/models")).json()
    worker.publish(fake_card(MODEL))
    worker.announce()
    after = (await (await start_app(settings)).get("/models")).json()
    ModelsAnswer.model_validate(after)
    view = {"id": MODEL, "name": MODEL, "description": "The bundled toy model"}
    assert before == {"models": [{**view, "format": "unknown", "loaded": False}]}
    assert after == {"models": [{**view, "format": "safetensors", "loaded": True}]}


async def samples(http: httpx.AsyncClient) -> dict[tuple[str, tuple[str, ...]], float]:
    response = await http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_the_metrics_cover_the_fleet(
    start_app: Start, settings: Settings, http: httpx.AsyncClient, worker: HandWorker
) -> None:
    for _ in range(3):
        await submit(http)
    worker.run("a", "b")
    worker.claim()
    worker.announce()
    found = await samples(await start_app(settings))
    assert found["baton_num_requests_running", ()] == 1
    assert found["baton_num_requests_waiting", (MODEL,)] == 1
    assert found["baton_generation_tokens_total", ()] == 2
    assert found["baton_prompt_tokens_total", ()] == 12
    assert found["baton_jobs_total", ("submitted",)] == 3
    assert found["baton_jobs_total", ("completed",)] == 1
    assert found["baton_workers", ()] == 1
    assert found["baton_worker_slots", ()] == 2
    assert found["baton_redis_up", ()] == 1


async def test_requests_are_counted_by_route_and_not_by_address(http: httpx.AsyncClient) -> None:
    for path in ("/status/one", "/status/two", "/nope/1", "/nope/2"):
        await http.get(path)
    await http.request("BREW", "/models")
    found = await samples(http)
    assert found["baton_http_requests_total", ("GET", "/status/{task_id}", "404")] == 2
    assert found["baton_http_requests_total", ("GET", "unmatched", "404")] == 2
    assert found["baton_http_requests_total", ("OTHER", "/models", "405")] == 1
    assert found["baton_http_request_duration_seconds_count", ("GET", "/status/{task_id}")] == 2


async def test_open_streams_are_counted(live: LiveGateway, live_http: httpx.AsyncClient) -> None:
    task_id = await submit(live_http)
    async with live_http.stream("GET", f"/stream/{task_id}") as response:
        await anext(response.aiter_lines())
        assert (await samples(live_http))["baton_gateway_watched_jobs", ()] == 1


async def test_the_front_door_is_json_for_programs(http: httpx.AsyncClient) -> None:
    body = (await http.get("/")).json()
    RootAnswer.model_validate(body)
    assert (body["version"], body["docs"], body["health"]) == (__version__, "/docs", "/health")


async def test_every_link_of_the_front_door_is_there(http: httpx.AsyncClient) -> None:
    links = (await http.get("/")).json()["links"]
    for name, path in links.items():
        response = await http.get(path)
        assert response.status_code == (405 if name == "generate" else 200)


async def test_the_front_door_is_a_page_for_browsers(http: httpx.AsyncClient) -> None:
    response = await http.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
    assert response.headers["content-type"].startswith("text/html")
    assert 'href="/docs"' in response.text
    assert not OTHER_HOST.search(response.text)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_documentation_loads_nothing_from_another_host(
    http: httpx.AsyncClient, path: str
) -> None:
    response = await http.get(path)
    assert response.status_code == 200
    assert "<title>Baton" in response.text
    assert not OTHER_HOST.search(response.text)
    local = re.findall(r"""(?:src|href)="(/[^"]+)""", response.text)
    assert len(local) >= 2
    for address in local:
        asset = await http.get(address)
        assert asset.status_code == 200, address
        assert asset.content
    # What the scripts would like to fetch, the browser must refuse.
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


async def test_the_schema_tells_our_errors_and_not_the_frameworks(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    assert schema["info"]["title"] == "Baton"
    operations = [
        (path, operation) for path, item in schema["paths"].items() for operation in item.values()
    ]
    assert "HTTPValidationError" not in str(schema)
    generate = schema["paths"]["/generate"]["post"]
    expected = {"200", "202", "400", "401", "404", "410", "413", "422", "429", "503"}
    expected |= {"409", "500", "502", "504"}  # where a router picks the model
    assert set(generate["responses"]) == expected
    answer = generate["responses"]["422"]["content"]["application/json"]["schema"]
    assert answer["$ref"].endswith("/ErrorAnswer")
    headers = {p["name"] for p in generate["parameters"] if p["in"] == "header"}
    assert headers == {"Prefer", "Idempotency-Key"}
    schemes = schema["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"apiKey", "http"}
    keyless = {"/", "/health", "/health/live", "/health/ready", "/ready", "/metrics"}
    assert {path for path, operation in operations if "security" not in operation} == keyless


async def test_two_gateways_in_one_process_count_for_themselves(
    start_app: Start, make_settings: Callable[..., Settings]
) -> None:
    first, second = [await start_app(make_settings()) for _ in range(2)]
    await first.get("/nope")
    assert ("baton_http_requests_total", ("GET", "unmatched", "404")) not in await samples(second)
