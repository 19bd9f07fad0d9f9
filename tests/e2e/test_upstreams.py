"""The real service in front of other servers: another Baton, and llama.cpp's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.e2e.llama_server import IS_THERE, LlamaServer, write_gguf
from tests.e2e.llama_server import KEY as LLAMA_KEY
from tests.e2e.service import KEY, Service

StartService = Callable[..., Service]
STORY: dict[str, Any] = {"max_tokens": 600, "seed": 5, "ignore_eos": True, "raw": True}
CHAT: list[Any] = [{"role": "user", "content": "Tell me a story about a little dog."}]

needs_llama = pytest.mark.skipif(
    not IS_THERE, reason="no llama-cpp-python: `make llama-cpp` builds it"
)


def settings_for(*urls: str, key: str = KEY, model: str = "baton-toy") -> dict[str, Any]:
    return {
        "MODEL_BACKEND": "openai",
        "MODEL_NAME": model,
        "OPENAI_BASE_URL": ",".join(urls),
        "OPENAI_API_KEY": key,
        "UPSTREAM_RETRY_S": 2,
    }


def wait_for_health(service: Service, status: str) -> dict[str, Any]:
    """Ask until the service is so; the test's own time limit ends it."""
    with service.http() as http:
        while True:
            health: dict[str, Any] = http.get("/health").json()
            if health["status"] == status:
                return health


def kill_worker(service: Service) -> None:
    [worker] = service.pids("worker.main")
    os.kill(worker, signal.SIGKILL)


@pytest.fixture
def front(service: Service, start_service: StartService) -> Service:
    """A service whose model another one runs."""
    front = start_service(**settings_for(service.url))
    front.wait_until_ready()
    return front


def test_another_baton_gives_the_text_and_the_counts_that_it_gives_itself(
    service: Service, front: Service
) -> None:
    expected = service.result(service.submit(**STORY))
    found = front.result(front.submit(**STORY))
    assert found["result"] == expected["result"]
    for count in ("prompt_tokens", "completion_tokens"):
        assert found["metrics"][count] == expected["metrics"][count]


def test_a_stream_goes_on_without_a_seam_when_the_worker_in_front_is_killed(
    front: Service,
) -> None:
    expected = front.result(front.submit(**STORY))["result"]
    task_id = front.submit(**STORY)
    frames = front.events(task_id)
    text = "".join(data["token"] for _, data in islice(frames, 8))
    assert text
    kill_worker(front)
    rest = [data for _, data in frames]
    assert text + "".join(data["token"] for data in rest) == expected
    assert not any(data.get("restarted") for data in rest)
    assert rest[-1]["metrics"]["attempts"] == 2


def test_a_server_that_is_killed_costs_502_and_health_until_it_is_back(
    start_service: StartService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    back = Service(tmp_path_factory.mktemp("back"))
    back.start()
    try:
        back.wait_until_ready()
        front = start_service(**settings_for(back.url))
        front.wait_until_ready()
        task_id = front.submit(**{**STORY, "max_tokens": 1500})
        assert len(list(islice(front.events(task_id), 4))) == 4
        os.killpg(back.process.pid, signal.SIGKILL)
        back.process.wait()
        failed = front.result(task_id)
        assert (failed["status"], failed["error_type"]) == ("error", "UpstreamError")
        health = wait_for_health(front, "degraded")
        assert "cannot be used" in health["reason"]
        with front.http() as http:
            body = {"model": "baton-toy", "messages": CHAT, "max_tokens": 5}
            answer = http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
        waiting = front.submit(max_tokens=5)
        back.start()
        wait_for_health(front, "healthy")
        assert front.result(waiting)["status"] == "completed"
    finally:
        back.stop()


def test_of_two_servers_the_second_takes_over_when_the_first_is_killed(
    service: Service, start_service: StartService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = service.result(service.submit(**STORY))["result"]
    first = Service(tmp_path_factory.mktemp("first"))
    first.start()
    try:
        first.wait_until_ready()
        front = start_service(**settings_for(first.url, service.url))
        front.wait_until_ready()
        task_id = front.submit(**STORY)
        frames = front.events(task_id)
        text = "".join(data["token"] for _, data in islice(frames, 6))
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
        rest = [data for _, data in frames]
        assert text + "".join(data["token"] for data in rest) == expected
        assert not any(data.get("restarted") for data in rest)
        assert rest[-1]["metrics"]["attempts"] == 1
    finally:
        first.stop()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    server = LlamaServer(write_gguf(tmp_path_factory.mktemp("gguf")))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def over_llama(llama: LlamaServer, start_service: StartService) -> Service:
    """A service whose model llama.cpp's server runs."""
    front = start_service(**settings_for(llama.url, key=LLAMA_KEY, model="toy"))
    front.wait_until_ready()
    return front


LLAMA_STORY: dict[str, Any] = {
    "prompt": "Once upon a time",
    "max_tokens": 150,
    "seed": 5,
    "raw": True,
}


@needs_llama
def test_llama_cpp_gives_through_the_service_what_it_gives_itself(
    over_llama: Service, llama: LlamaServer
) -> None:
    asked = {
        "prompt": "Once upon a time",
        "max_tokens": 40,
        "temperature": 0,
        "top_k": 0,
        "min_p": 0,
        "repeat_penalty": 1,
    }
    headers = {"Authorization": f"Bearer {LLAMA_KEY}"}
    answer = httpx.post(f"{llama.url}/completions", json=asked, headers=headers, timeout=60)
    expected = answer.json()["choices"][0]["text"]
    fields: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "raw": True}
    found = over_llama.result(over_llama.submit("Once upon a time", **fields))
    assert found["result"] == expected
    assert found["metrics"]["counted_by"] == "pieces"


@needs_llama
def test_openais_client_streams_a_chat_through_the_service_from_llama_cpp(
    over_llama: Service,
) -> None:
    asked: dict[str, Any] = {"model": "toy", "messages": CHAT, "max_tokens": 200, "seed": 3}
    with OpenAI(base_url=f"{over_llama.url}/v1", api_key=KEY) as client:
        whole = client.chat.completions.create(**asked)
        pieces, usage = [], None
        for chunk in client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ):
            pieces += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert usage is not None
    assert usage.completion_tokens > 5


@needs_llama
def test_json_by_a_schema_comes_from_llama_cpp(over_llama: Service) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["dog", "cat"]}},
        "required": ["kind"],
        "additionalProperties": False,
    }
    with OpenAI(base_url=f"{over_llama.url}/v1", api_key=KEY) as client:
        answer = client.chat.completions.create(
            model="toy",
            messages=CHAT,
            max_tokens=40,
            temperature=0,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            },
        )
    assert (answer.choices[0].message.content or "").replace(" ", "") in (
        '{"kind":"dog"}',
        '{"kind":"cat"}',
    )


@needs_llama
def test_a_stream_from_llama_cpp_goes_on_when_the_worker_is_killed(over_llama: Service) -> None:
    expected = over_llama.result(over_llama.submit(**LLAMA_STORY))["result"]
    task_id = over_llama.submit(**LLAMA_STORY)
    frames = over_llama.events(task_id)
    read = [data for _, data in islice(frames, 5)]
    kill_worker(over_llama)
    read += [data for _, data in frames]
    # Its numbers depend on what it had in its cache, and with them, rarely, a token.
    begin = max((i for i, data in enumerate(read) if data.get("restarted")), default=0)
    text = "".join(data["token"] for data in read[begin:])
    assert text == read[-1]["result"]
    assert text == expected or begin


@needs_llama
def test_llama_cpps_server_is_killed_and_started_again_within_the_retry_budget(
    llama: LlamaServer, start_service: StartService
) -> None:
    settings = settings_for(llama.url, key=LLAMA_KEY, model="toy") | {"UPSTREAM_RETRY_S": 60}
    front = start_service(**settings)
    front.wait_until_ready()
    task_id = front.submit(**LLAMA_STORY)
    frames = front.events(task_id)
    read = [data for _, data in islice(frames, 5)]
    llama.kill()
    llama.start()
    read += [data for _, data in frames]
    begin = max((i for i, data in enumerate(read) if data.get("restarted")), default=0)
    assert "".join(data["token"] for data in read[begin:]) == read[-1]["result"]
    assert read[-1]["status"] == "completed"
