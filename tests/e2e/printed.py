"""Reads requests and answers as documents print them, and compares real answers with these."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.service import KEY, Service

EXAMPLES = Path(__file__).parent / "examples"
CURL_TIMEOUT_S = 120


def printed(name: str) -> Any:
    """A body as it is printed, but for what is no JSON: comments, dots, numbers such as 012."""
    return _body((EXAMPLES / name).read_text())


def _body(text: str) -> Any:
    text = re.sub(r"\s*//.*|, \.\.\.", "", text)
    return json.loads(re.sub(r"(?<=[ \[])0+(?=\d)", "", text))


def send(http: httpx.Client, name: str, **headers: str) -> httpx.Response:
    """Send a request that is printed as HTTP, with more headers."""
    head, _, body = (EXAMPLES / name).read_text().partition("\n\n")
    (method, path), *lines = (line.split(maxsplit=1) for line in head.splitlines())
    fields = {field.removesuffix(":"): value for field, value in lines}
    content = json.dumps(_body(body)).encode() if body else None
    return http.request(method, path, content=content, headers=fields | headers)


def curl(name: str, service: Service, folder: Path, *curlrc: str) -> str:
    """What a script of curl calls prints; the port, and what `.curlrc` says, are the test's.

    Args:
        name: Of the script.
        service: That it calls.
        folder: Where the `.curlrc` goes.
        curlrc: Its lines beside the one for the API key.
    """
    key = f'header = "X-API-Key: {KEY}"'
    (folder / ".curlrc").write_text("\n".join(["silent", key, *curlrc]) + "\n")
    script = (EXAMPLES / name).read_text()
    done = subprocess.run(
        ["bash", "-c", re.sub(r"localhost:\d+", f"127.0.0.1:{service.port}", script)],
        env={**os.environ, "CURL_HOME": str(folder), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=CURL_TIMEOUT_S,
        check=True,
    )
    return done.stdout


def assert_has_the_fields_of(answer: Any, example: Any, where: str = "") -> None:
    """Every field of the example is there, with a value of its kind.

    Every item of a list has to be as the example's first one; how many there are is the caller's
    to check. Whole numbers stand for any number in the documents (`"queue_time_ms": 0`).
    """
    if isinstance(example, dict):
        assert isinstance(answer, dict), where
        for name, value in example.items():
            assert name in answer, f"{where}.{name}"
            assert_has_the_fields_of(answer[name], value, f"{where}.{name}")
    elif isinstance(example, list):
        assert isinstance(answer, list), where
        assert answer, where
        for i, found in enumerate(answer):
            assert_has_the_fields_of(found, example[0], f"{where}[{i}]")
    else:
        is_number = isinstance(example, int | float) and not isinstance(example, bool)
        assert isinstance(answer, int | float if is_number else type(example)), where
        assert isinstance(answer, bool) == isinstance(example, bool), where


def assert_are_counts(numbers: dict[str, Any]) -> None:
    """They are whole numbers, none below 0."""
    assert all(type(number) is int and number >= 0 for number in numbers.values()), numbers
