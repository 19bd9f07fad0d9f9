"""Clients of others, unmodified, with the real service and the bundled model.

Where they live: `tests/e2e/other_clients.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.model_entries import BUNDLED_DIR
from tests.e2e.other_clients import SCRIPTS, Clients, last_line, needs_node, needs_python
from tests.e2e.service import ROOT, Service

CHAT: dict[str, Any] = {
    "model": "baton-toy",
    "messages": [{"role": "user", "content": "What is Python?"}],
    "temperature": 0,
    "max_tokens": 60,
}


@pytest.fixture(scope="module")
def refusing_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service whose one submission a minute is spent; no model has to be loaded to say so."""
    service = Service(
        tmp_path_factory.mktemp("refusing"), RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_BURST=1
    )
    service.start()
    try:
        service.wait_for("Baton answers at")
        service.submit(max_tokens=1)
        yield f"{service.url}/v1"
    finally:
        service.stop()


@pytest.fixture
def clients(service: Service, refusing_url: str, tmp_path: Path) -> Clients:
    """For programs that run in a folder of their own."""
    return Clients(service, tmp_path, REFUSING_BASE_URL=refusing_url)


def assert_is_what_the_service_says(found: dict[str, Any], service: Service) -> None:
    """Chats, waiting and streaming, are the answer that plain HTTP gets; the rest is as asked."""
    with service.http() as http:
        answer = http.post("/v1/chat/completions", json=CHAT).json()
        prompt = {"model": "baton-toy", "prompt": "Once upon a time"}
        completion = http.post(
            "/v1/completions", json=prompt | {"temperature": 0, "max_tokens": 10}
        ).json()
    [choice], usage = answer["choices"], answer["usage"]
    counts = [usage["prompt_tokens"], usage["completion_tokens"]]
    assert found["text"] == found["streamed"] == choice["message"]["content"]
    assert found["finish_reason"] == choice["finish_reason"] == "stop"
    assert found["usage"] == found["streamed_usage"] == counts
    assert found["completed"] == completion["choices"][0]["text"]
    assert found["parsed"]["kind"] in ("dog", "cat", "bird")
    assert isinstance(found["parsed"]["age"], int)
    name, arguments = found["called"]
    assert name == "pick"
    assert arguments in ({"kind": "dog"}, {"kind": "cat"})


def errors(found: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, status) for name, status in found["errors"]]


EXPECTED_ERRORS = [
    ("AuthenticationError", 401),
    ("NotFoundError", 404),
    ("BadRequestError", 400),
    ("RateLimitError", 429),
]


@needs_python
def test_litellm_gets_what_plain_http_gets(clients: Clients) -> None:
    found = last_line(clients.run_python((SCRIPTS / "litellm_calls.py").read_text()))
    assert_is_what_the_service_says(found, clients.service)
    # The class by which litellm turns to a model with a larger context.
    assert errors(found) == [*EXPECTED_ERRORS, ("ContextWindowExceededError", 400)]


@needs_python
def test_langchain_gets_what_plain_http_gets(clients: Clients) -> None:
    found = last_line(clients.run_python((SCRIPTS / "langchain_calls.py").read_text()))
    assert_is_what_the_service_says(found, clients.service)
    assert errors(found) == [*EXPECTED_ERRORS, ("ContextOverflowError", 400)]


@needs_node
def test_openais_client_for_node_gets_what_plain_http_gets(clients: Clients) -> None:
    found = last_line(clients.run_node((SCRIPTS / "node_calls.js").read_text()))
    assert_is_what_the_service_says(found, clients.service)
    assert found["models"] == ["baton-toy"]
    assert errors(found) == EXPECTED_ERRORS


@needs_node
def test_a_batch_goes_through_openais_client_for_node(clients: Clients) -> None:
    found = last_line(clients.run_node((SCRIPTS / "node_batch.js").read_text()))
    assert found["input"] == ["requests.jsonl", found["sent"]]
    assert found["status"] == "completed"
    assert found["counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert found["listed"]
    assert found["deleted"]
    output = {line["custom_id"]: line["response"]["body"] for line in found["output"]}
    with clients.service.http() as http:
        for custom_id, max_tokens in (("one", 60), ("two", 5)):
            asked = CHAT | {"max_tokens": max_tokens}
            answer = http.post("/v1/chat/completions", json=asked).json()
            message = output[custom_id]["choices"][0]["message"]
            assert message == answer["choices"][0]["message"]
            assert output[custom_id]["usage"]["total_tokens"] == answer["usage"]["total_tokens"]
    [refused] = found["errors"]
    assert refused["custom_id"] == "three"
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"]["error"]["param"] == "temperature"


@needs_node
def test_responses_go_through_openais_client_for_node(clients: Clients) -> None:
    found = last_line(clients.run_node((SCRIPTS / "node_responses.js").read_text()))
    asked = {"model": "baton-toy", "input": "What is Python?", "temperature": 0}
    with clients.service.http() as http:
        answer = http.post("/v1/responses", json=asked | {"max_output_tokens": 60}).json()
    text, usage = answer["output"][0]["content"][0]["text"], answer["usage"]
    assert text
    assert found["text"] == found["streamed"] == found["helped"] == found["resumed"] == text
    assert found["usage"] == [usage["input_tokens"], usage["output_tokens"]]
    assert found["begun"] in ("queued", "in_progress")
    assert found["polled"] == ["completed", text]
    assert found["last"] == "response.completed"
    for numbers in (found["numbers"], found["resumed_numbers"]):
        assert numbers == list(range(len(numbers)))
    assert found["follow"] == "completed"
    assert found["items"] == ["message", "message", "message"]
    assert found["cancelled"] == "cancelled"
    assert found["gone"]


def documented(language: str, mentions: str, service: Service) -> str:
    """The snippet of docs/api.md, with the address of the service in it."""
    page = (ROOT / "docs" / "api.md").read_text()
    section = page.split("\n### Clients\n")[1].split("\n## ")[0].split("\n### ")[0]
    snippets = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    [snippet] = [text for text in snippets if mentions in text]
    assert "localhost:8000" in snippet
    return str(snippet).replace("localhost:8000", f"localhost:{service.port}")


@needs_python
@pytest.mark.parametrize("library", ["litellm", "langchain_openai"])
def test_the_documented_python_snippets_print_an_answer(clients: Clients, library: str) -> None:
    assert "Python is" in clients.run_python(documented("python", library, clients.service))


@needs_node
def test_the_documented_node_snippet_prints_an_answer(clients: Clients) -> None:
    assert "Python is" in clients.run_node(documented("js", "openai", clients.service))


class Scores:
    """What lm-eval measured, by task."""

    def __init__(self, folder: Path) -> None:
        [results] = folder.glob("*/results_*.json")
        self.results: dict[str, Any] = json.loads(results.read_text())["results"]
        self._folder = results.parent

    def samples(self, task: str) -> list[dict[str, Any]]:
        """A task's rows, in their order."""
        [file] = self._folder.glob(f"samples_{task}_2*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return sorted(rows, key=lambda row: int(row["doc_id"]))


@pytest.fixture(scope="module")
def scores(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """The documented run of the tasks from a local file."""
    folder = tmp_path_factory.mktemp("lm-eval")
    command = documented("sh", "lm_eval", service).strip()
    command += f" --log_samples --output_path {folder / 'scores'}"
    Clients(service, folder).run("bash", "-c", command, cwd=ROOT)
    return Scores(folder / "scores")


def logprob_and_greedy(prompt: str, continuation: str) -> tuple[float, bool]:
    """How likely the model itself finds a continuation, and whether it would have said that."""
    tokenizer: Any = AutoTokenizer.from_pretrained(BUNDLED_DIR)
    model: Any = AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=torch.float32)
    ids = tokenizer(prompt + continuation, return_tensors="pt").input_ids
    num_prompt = len(tokenizer(prompt).input_ids)
    with torch.inference_mode():
        logprobs = model(ids).logits[0, num_prompt - 1 : -1].log_softmax(-1)
    said = ids[0, num_prompt:]
    total = logprobs.gather(1, said[:, None]).sum().item()
    return total, bool((logprobs.argmax(-1) == said).all())


@needs_python
@pytest.mark.parametrize("row", [1, 2])
def test_lm_eval_scores_choices_by_the_models_own_logprobs(scores: Scores, row: int) -> None:
    sample = scores.samples("sums")[row]
    arguments = sample["arguments"].values()
    expected = [logprob_and_greedy(a["arg_0"], a["arg_1"]) for a in arguments]
    found = [(float(logprob), greedy == "True") for logprob, greedy in sample["filtered_resps"]]
    assert len(found) == len(sample["doc"]["choices"])
    assert [logprob for logprob, _ in found] == pytest.approx([e for e, _ in expected], abs=1e-2)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@needs_python
def test_lm_eval_finds_that_the_model_can_add(scores: Scores) -> None:
    # Far from a matter of luck: right answers are ahead by four nats or more.
    assert scores.results["sums"]["acc,none"] == 1


@needs_python
def test_lm_eval_reads_what_the_model_writes(scores: Scores) -> None:
    written = [sample["filtered_resps"] for sample in scores.samples("sums_written")]
    assert written == [[" 3"], [" 4"], [" 7"], [" 6"], [" 8"], [" 8"], [" 9"], [" 2"]]
    assert scores.results["sums_written"]["exact_match,none"] == 1
