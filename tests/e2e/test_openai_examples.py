"""Every example of `004_d314d6d6ae5d2d3d.txt` and `002_a975337e2d09907a.txt` works as it stands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.model_entries import BUNDLED_DIR
from tests.e2e.service import KEY, Service

EXAMPLES = Path(__file__).parent / "examples" / "openai"
TIMEOUT_S = 120
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose model is called as in the examples; it is the bundled one."""
    folder = tmp_path_factory.mktemp("llama3-service")
    (folder / "llama3").symlink_to(BUNDLED_DIR)
    service = Service(folder, MODEL_NAME="./llama3")
    service.start()
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


def printed(name: str) -> Any:
    return json.loads((EXAMPLES / name).read_text())


def assert_has_the_fields_of(answer: Any, example: Any, where: str = "") -> None:
    """Every field of the example is there, with a value of its kind."""
    if isinstance(example, dict):
        for name, value in example.items():
            assert name in answer, f"{where}.{name}"
            assert_has_the_fields_of(answer[name], value, f"{where}.{name}")
    elif isinstance(example, list):
        assert len(answer) == len(example), where
        for i, (found, value) in enumerate(zip(answer, example, strict=True)):
            assert_has_the_fields_of(found, value, f"{where}[{i}]")
    else:
        kind = (int, float) if isinstance(example, float | int) else type(example)
        assert isinstance(answer, kind), where


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
@pytest.mark.parametrize("name", ["chat_curl.sh", "chat_curl_short.sh"])
def test_the_curl_examples_get_an_answer(llama3: Service, tmp_path: Path, name: str) -> None:
    (tmp_path / ".curlrc").write_text(f'header = "Authorization: Bearer {KEY}"\nsilent\n')
    script = (EXAMPLES / name).read_text().replace("localhost:8000", f"127.0.0.1:{llama3.port}")
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "CURL_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert_has_the_fields_of(answer, printed("chat_response.json"))


@pytest.mark.parametrize("name", ["chat_request.json", "chat_request_short.json"])
def test_the_printed_chats_get_the_printed_answer(llama3: Service, name: str) -> None:
    with llama3.http() as http:
        response = http.post(CHAT, json=printed(name))
    assert response.status_code == 200, response.text
    answer, example = response.json(), printed("chat_response.json")
    assert_has_the_fields_of(answer, example)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == example["object"]
    assert answer["model"] == example["model"]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer["performance"]["prefill_time_ms"] > 0
    assert answer["performance"]["decode_time_ms"] > 0
    assert answer["performance"]["batch_size"] >= 1


def test_the_models_are_listed_as_printed(llama3: Service) -> None:
    with llama3.http() as http:
        answer = http.get("/v1/models").json()
    assert_has_the_fields_of(answer, printed("models_response.json"))
    assert answer["data"][0]["id"] == "llama3"
    assert answer["data"][0]["object"] == "model"


def test_an_invalid_model_parameter_is_the_printed_error(llama3: Service) -> None:
    with llama3.http() as http:
        response = http.post(CHAT, json={**printed("chat_request.json"), "model": 7})
    assert response.status_code == 400
    error = response.json()["error"]
    assert_has_the_fields_of(response.json(), printed("error_response.json"))
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "model"


def test_the_completion_of_the_diagram_is_answered(llama3: Service) -> None:
    body = {"model": "llama3", "prompt": "Once upon a time", "max_tokens": 100}
    body |= {"temperature": 0.7, "stream": False}
    with llama3.http() as http:
        answer = http.post("/v1/completions", json=body).json()
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] > 0


def test_a_stream_ends_with_done(llama3: Service) -> None:
    body = {"model": "llama3", "prompt": "Once upon a time", "max_tokens": 20, "stream": True}
    with llama3.http() as http:
        text = http.post("/v1/completions", json=body).text
    assert text.endswith("data: [DONE]\n\n")
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks)
