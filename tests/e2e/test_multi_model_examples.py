"""Every request and answer of `000_dd3c37f7e9e397a0.txt`, sent as they are printed there.

What is added is the API key, and `Prefer: wait` where `/generate` is to answer with the result.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.printed import EXAMPLES, assert_has_the_fields_of, curl, printed, send
from tests.e2e.service import Service

WAIT = {"Prefer": "wait"}
TINY_VOCAB_SIZE = 257  # of the model that is called mistral-7b; the other one's is 3072

# The figures that the document calls `realizar_...`, by our names.
METRICS = {
    "total_requests": ("baton_jobs_total", {"state": "submitted"}),
    "successful_requests": ("baton_jobs_total", {"state": "completed"}),
    "failed_requests": ("baton_jobs_total", {"state": "failed"}),
    "total_tokens": ("baton_generation_tokens_total", {}),
    "total_latency_ms": ("baton_e2e_request_latency_seconds_sum", {}),
}
# Those that are no counters are worked out by the service.
WORKED_OUT = {"avg_latency_ms": "average_latency_ms", "tokens_per_second": "tokens_per_second"}


@pytest.fixture(scope="module")
def service(llama_and_mistral: Service) -> Service:
    return llama_and_mistral


def answer_to(service: Service, name: str, **headers: str) -> Any:
    """The body of the answer to a printed request, which must succeed."""
    with service.http() as http:
        response = send(http, f"models/{name}.http", **headers)
    assert response.status_code == 200, response.text
    return response.json()


def test_health_is_as_printed_and_needs_no_key(service: Service) -> None:
    with httpx.Client(base_url=service.url, trust_env=False) as anybody:
        response = send(anybody, "models/health.http")
    assert (response.status_code, response.json()["status"]) == (200, "healthy")
    assert_has_the_fields_of(response.json(), printed("models/health_response.json"))


def test_the_models_are_listed_exactly_as_printed(service: Service) -> None:
    assert answer_to(service, "models") == printed("models/models_response.json")


def test_a_text_is_tokenized_as_printed(service: Service) -> None:
    answer = answer_to(service, "tokenize")
    assert_has_the_fields_of(answer, printed("models/tokenize_response.json"))
    assert answer.keys() == {"token_ids", "num_tokens"}
    assert answer["num_tokens"] == len(answer["token_ids"])


def test_texts_are_tokenized_in_their_order_as_printed(service: Service) -> None:
    answer = answer_to(service, "batch_tokenize")
    assert_has_the_fields_of(answer, printed("models/batch_tokenize_response.json"))
    assert answer.keys() == {"results"}
    with service.http() as http:
        each = [
            http.post("/tokenize", json={"text": text}).json()
            for text in ("First text", "Second text", "Third text")
        ]
    assert answer["results"] == each


def assert_generated(result: dict[str, Any], max_tokens: int) -> None:
    assert 0 < result["num_generated"] == len(result["token_ids"]) <= max_tokens
    assert result["text"]


def test_a_text_is_generated_as_printed_by_the_model_that_was_asked_for(service: Service) -> None:
    answer = answer_to(service, "generate", **WAIT)
    assert_has_the_fields_of(answer, printed("models/generate_response.json"))
    assert_generated(answer, 50)
    assert max(answer["token_ids"]) < TINY_VOCAB_SIZE
    assert answer_to(service, "generate", **WAIT)["token_ids"] == answer["token_ids"]  # by seed


@pytest.mark.parametrize("strategy", ["greedy", "top_k", "top_p"])
def test_every_strategy_generates(service: Service, strategy: str) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 50, "strategy": strategy, "top_k": 50}
    with service.http() as http:
        response = http.post("/generate", json=body, headers=WAIT)
    assert response.status_code == 200, response.text
    assert_generated(response.json(), 50)


def test_a_stream_has_the_printed_events_and_nothing_else(service: Service) -> None:
    with service.http() as http:
        response = send(http, "models/stream.http")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    example = (EXAMPLES / "models/stream_response.txt").read_text()
    token, done = r'data: \{"token":".+"\}', r'data: \{"done":true\}'
    for text in (example.rstrip("\n"), response.text.removesuffix("\n\n")):
        *tokens, last = text.split("\n\n")
        assert tokens
        assert all(re.fullmatch(token, event) for event in tokens)
        assert re.fullmatch(done, last)


def test_a_stream_put_together_is_what_the_strategy_gives_without_one(service: Service) -> None:
    with service.http() as http:
        response = send(http, "models/stream.http")
        body = json.loads(response.request.content)
        result = http.post("/generate", json=body, headers=WAIT).json()
    data = [json.loads(line[len("data: ") :]) for line in response.text.splitlines() if line]
    assert "".join(event.get("token", "") for event in data) == result["text"]


def test_prompts_are_answered_in_their_order_as_printed(service: Service) -> None:
    answer = answer_to(service, "batch_generate")
    assert_has_the_fields_of(answer, printed("models/batch_generate_response.json"))
    assert answer.keys() == {"results"}
    body = {"max_tokens": 10, "strategy": "greedy"}
    with service.http() as http:
        each = [
            http.post("/generate", json={"prompt": prompt, **body}, headers=WAIT).json()["text"]
            for prompt in ("Hello", "Goodbye")
        ]
    assert [result["text"] for result in answer["results"]] == each
    for result in answer["results"]:
        assert_generated(result, 10)


def test_every_printed_figure_is_in_the_metrics_under_our_name(service: Service) -> None:
    before = figures(service)
    answer_to(service, "generate", **WAIT)
    example = (EXAMPLES / "models/metrics_response.txt").read_text()
    named = re.findall(r"^# TYPE realizar_(\w+)", example, re.MULTILINE)
    assert named == [*METRICS, *WORKED_OUT]
    # The gateway reads the fleet's counters once a second.
    while (after := figures(service))["successful_requests"] == before["successful_requests"]:
        assert service.process.poll() is None
    for name in ("total_requests", "total_tokens", "total_latency_ms"):
        assert after[name] > before[name], name
    assert after["failed_requests"] == before["failed_requests"]
    with service.http() as http:
        stats = http.get("/v1/engine/stats").json()
    assert all(stats[name] > 0 for name in WORKED_OUT.values())


def figures(service: Service) -> dict[str, float]:
    """The printed counters; 0 where nothing was counted yet."""
    with httpx.Client(base_url=service.url, trust_env=False) as anybody:
        response = send(anybody, "models/metrics.http")
    assert response.status_code == 200
    samples = [
        sample
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    ]
    return {
        figure: sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
        for figure, (name, labels) in METRICS.items()
    }


@pytest.mark.parametrize("name", ["curl_specific_model.sh", "curl_default_model.sh"])
def test_the_curl_calls_get_a_result(service: Service, tmp_path: Path, name: str) -> None:
    output = curl(f"models/{name}", service, tmp_path, 'header = "Prefer: wait"')
    answer = json.loads(output)
    assert_has_the_fields_of(answer, printed("models/generate_response.json"))
    assert_generated(answer, 10)
    assert answer["model"] == ("mistral-7b" if "specific" in name else "llama-7b")


def test_the_curl_call_of_a_model_that_does_not_exist_gets_the_printed_404(
    service: Service, tmp_path: Path
) -> None:
    output = curl(
        "models/curl_unknown_model.sh", service, tmp_path, r'write-out = "\n%{http_code}"'
    )
    body, _, status = output.rpartition("\n")
    assert status == "404"
    assert json.loads(body)["error"] == printed("models/unknown_model_response.json")["error"]


def test_the_two_concurrent_requests_are_answered_each_by_its_model(service: Service) -> None:
    def ask(model: str) -> Any:
        with service.http() as http:
            body = {"prompt": "...", "model_id": model}
            return http.post("/generate", json=body, headers=WAIT).json()

    models = ["llama-7b", "mistral-7b"]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(ask, models))
    assert [answer["model"] for answer in answers] == models
    for answer in answers:
        assert_generated(answer, 512)
