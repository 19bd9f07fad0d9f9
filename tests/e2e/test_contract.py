"""Schemathesis over the real service: what the OpenAPI document says is what is done.

Each run sends valid and invalid requests to every operation, alone and one after another, and holds
the answers to the document: status, media type, body, events of streams; that what is invalid is
refused, as is who has no key; and that what is valid is not. The service has its models, so that no
status from 500 on has a reason to come.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.invariants import check_invariants
from tests.e2e.contract.hooks import BACKGROUND, CANDIDATES, EMBEDDER, INPUT_FILE, MODEL
from tests.e2e.service import KEY, ROOT, Service
from tests.redis_server import RedisServer

CONFIG = ROOT / "tests" / "e2e" / "contract" / "schemathesis.toml"
MODELS = [
    {"id": MODEL, "source": "baton-toy", "aliases": CANDIDATES[:1]},
    {"id": EMBEDDER, "source": "baton-toy", "kind": "embed"},
]
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
LINE = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Service]:
    """A service with a model of each kind, whose answers are short and whose rate is high."""
    service = Service(
        tmp_path_factory.mktemp("contract"),
        MODELS=json.dumps(MODELS),
        KV_CACHE_GIB=0.2,
        MAX_NEW_TOKENS=3,
        RATE_LIMIT_PER_MINUTE=1_000_000,
        RATE_LIMIT_BURST=10_000,
        REDIS_URL=redis_server.url,
    )
    service.start()
    try:
        for model in (MODEL, EMBEDDER):
            service.wait_for(f"Model {model} is ready on")
        yield service
    finally:
        service.stop()


def prepared(service: Service) -> dict[str, str]:
    """What requests name that no other one has made for them, as environment variables."""
    files = {"file": ("requests.jsonl", json.dumps(LINE).encode())}
    with service.http() as http:
        file = http.post("/v1/files", files=files, data={"purpose": "batch"})
        response = http.post(
            "/v1/responses", json={"model": MODEL, "input": "Hello", "background": True}
        )
    return {INPUT_FILE: file.json()["id"], BACKGROUND: response.json()["id"]}


def schemathesis(service: Service, folder: Path, *options: Any) -> subprocess.CompletedProcess[str]:
    """Its command, run over the whole document."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{service.url}/openapi.json", "--no-color", *map(str, options)),
        ],
        env=os.environ | prepared(service) | {"PYTHONPATH": str(ROOT), "CONTRACT_KEY": KEY},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)  # whole minutes on a busy machine
@pytest.mark.parametrize(
    ("num_examples", "seed"),
    [
        (10, 1),
        *(
            pytest.param(200, seed, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
            for seed in (2, 3)
        ),
    ],
)
def test_no_answer_is_other_than_the_document_says(
    service: Service, redis_server: RedisServer, tmp_path: Path, num_examples: int, seed: int
) -> None:
    found = schemathesis(service, tmp_path, "--max-examples", num_examples, "--seed", seed)
    assert found.returncode == 0, found.stdout
    # What goes wrong inside of a stream has no status.
    assert (service.log_dir / "errors.log").read_text() == ""
    assert check_invariants(redis_server.url) == []
