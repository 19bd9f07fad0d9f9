"""Every request and answer of `004_d314d6d6ae5d2d3d.txt`, sent as they are printed there.

Its errors are in `test_openai_errors.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from common import __version__
from tests.e2e.printed import assert_are_counts, assert_has_the_fields_of, curl, printed
from tests.e2e.service import Service

CHAT = "/v1/chat/completions"
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="no curl")


def assert_is_a_chat(answer: dict[str, Any]) -> None:
    """Every printed field, with what its value has to be."""
    assert_has_the_fields_of(answer, printed("openai/chat_response.json"))
    assert_has_the_fields_of(answer, printed("openai/chat_flow_response.json"))
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "llama3")
    [choice] = answer["choices"]
    assert (choice["index"], choice["message"]["role"]) == (0, "assistant")
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage, performance = answer["usage"], answer["performance"]
    names = printed("openai/chat_response.json")["usage"]
    assert_are_counts({"created": answer["created"], **{name: usage[name] for name in names}})
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert performance["queue_time_ms"] >= 0
    for name in ("prefill_time_ms", "decode_time_ms", "tokens_per_second"):
        assert performance[name] > 0, name
    assert type(performance["batch_size"]) is int
    assert performance["batch_size"] >= 1


@needs_curl
@pytest.mark.parametrize(
    ("name", "max_tokens"), [("chat_curl.sh", 100), ("chat_curl_short.sh", 512)]
)
def test_the_curl_calls_get_the_printed_chat(
    llama3: Service, tmp_path: Path, name: str, max_tokens: int
) -> None:
    answer = json.loads(curl(f"openai/{name}", llama3, tmp_path))
    assert_is_a_chat(answer)
    assert answer["usage"]["completion_tokens"] <= max_tokens


@pytest.mark.parametrize("name", ["chat_request.json", "chat_request_short.json"])
def test_the_printed_chats_get_the_printed_answer(llama3: Service, name: str) -> None:
    with llama3.http() as http:
        response = http.post(CHAT, json=printed(f"openai/{name}"))
    assert response.status_code == 200, response.text
    assert_is_a_chat(response.json())


def test_the_printed_chat_is_streamed_as_deltas_and_done(llama3: Service) -> None:
    body = printed("openai/chat_request.json") | {"stream": True, "seed": 7}
    with llama3.http() as http:
        text = http.post(CHAT, json=body).text
        whole = http.post(CHAT, json=body | {"stream": False}).json()
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"llama3"}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert content == whole["choices"][0]["message"]["content"]
    assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_the_models_are_listed_as_printed(llama3: Service) -> None:
    with llama3.http() as http:
        answer = http.get("/v1/models").json()
    assert_has_the_fields_of(answer, printed("openai/models_response.json"))
    assert answer["object"] == "list"
    [model] = answer["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("llama3", "model", "baton")
    assert_are_counts({"created": model["created"]})


def assert_are_metrics(answer: dict[str, Any]) -> None:
    example = printed("openai/metrics_response.json")
    assert answer.keys() == example.keys()
    assert answer["gpu"] is None or answer["gpu"].keys() == example["gpu"].keys()
    for part in ("cpu", "memory", "engine", "cache"):
        assert answer[part].keys() == example[part].keys()
        assert_has_the_fields_of(answer[part], example[part])
    assert_are_counts({name: answer["cpu"][name] for name in ("core_count",)})
    assert_are_counts({k: v for k, v in answer["engine"].items() if not k.endswith("_ms")})
    assert_are_counts({k: v for k, v in answer["cache"].items() if k != "hit_rate"})


def test_the_metrics_are_as_printed_and_count_what_is_done(llama3: Service) -> None:
    with llama3.http() as http:
        before = http.get("/v1/metrics").json()["engine"]
        http.post(CHAT, json=printed("openai/chat_request_short.json"))
        # The gateway reads the fleet's counters once a second.
        while (answer := http.get("/v1/metrics").json())["engine"] == before:
            assert llama3.process.poll() is None
    assert_are_metrics(answer)
    engine = answer["engine"]
    assert engine["total_requests"] >= engine["completed_requests"] >= 1
    assert engine["avg_prefill_time_ms"] > 0
    assert engine["avg_decode_time_ms"] > 0


@needs_curl
@pytest.mark.skipif(not shutil.which("jq"), reason="no jq")
def test_the_curl_call_of_the_metrics_shows_them(llama3: Service, tmp_path: Path) -> None:
    assert_are_metrics(json.loads(curl("openai/metrics_curl.sh", llama3, tmp_path)))


def test_health_is_as_printed(llama3: Service) -> None:
    answer = httpx.get(f"{llama3.url}/health", trust_env=False).json()
    example = printed("openai/health_response.json")
    assert_has_the_fields_of(answer, example)
    assert example | {"version": __version__} == {name: answer[name] for name in example}


@needs_curl
def test_the_curl_call_of_ready_prints_what_is_printed(llama3: Service, tmp_path: Path) -> None:
    output = curl("openai/ready_curl.sh", llama3, tmp_path)
    assert json.loads(output) == printed("openai/ready_response.json")
