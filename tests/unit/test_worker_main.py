"""What ends a worker process."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

import worker.main
from common.model_card import ModelKind
from common.model_catalog import CatalogEntry
from common.model_entries import BackendName
from common.settings import Settings
from worker.backends.base import MemoryShare
from worker.backends.embedding import EmbeddingBackend
from worker.backends.with_encoder import BackendWithEncoder


def test_a_worker_that_lost_a_thread_logs_it_and_leaves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[int] = []
    monkeypatch.setattr(worker.main, "_leave_at_once", left.append)
    monkeypatch.setattr(threading, "excepthook", worker.main._leave_after)

    def fail() -> None:
        raise ValueError("a bug")

    thread = threading.Thread(target=fail, name="publisher")
    with caplog.at_level(logging.CRITICAL):
        thread.start()
        thread.join()
    assert left == [worker.main.EXIT_THREAD_DIED]
    assert "The thread publisher died" in caplog.text
    assert "ValueError: a bug" in caplog.text


def test_without_redis_url_a_worker_says_so_and_leaves_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(worker.main.log, "configure", lambda *_: None)
    assert worker.main.main() == 2
    assert "Example: REDIS_URL=redis://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "backend"), [("generate", BackendWithEncoder), ("embed", EmbeddingBackend)]
)
def test_the_kind_of_a_model_chooses_its_backend(kind: ModelKind, backend: type) -> None:
    entry = CatalogEntry("e", (), "e", "transformers", "", "E", kind=kind)
    created = worker.main._create_backend(entry, Settings(_env_file=None), MemoryShare())
    assert type(created) is backend


@pytest.mark.parametrize(
    ("base_urls", "place"),
    [
        ((), "cuda:0"),
        (("http://a",), "another server"),
        (("http://a", "http://b", "http://a"), "one or more of 2 other servers"),
    ],
)
def test_a_model_is_ready_where_it_runs(base_urls: tuple[str, ...], place: str) -> None:
    backend: BackendName = "openai" if base_urls else "transformers"
    entry = CatalogEntry("m", (), "m", backend, "", "M", base_urls=base_urls)
    assert worker.main._place(entry, "cuda:0") == place


def test_a_worker_whose_models_other_servers_run_never_imports_torch() -> None:
    code = (
        "import sys, worker.main\n"
        "from common.settings import load_settings\n"
        "from common.model_catalog import ModelCatalog\n"
        "from worker.backends.base import MemoryShare\n"
        "settings = load_settings(model_backend='openai', openai_base_url='http://a')\n"
        "entry = ModelCatalog(settings).default\n"
        "worker.main._create_backend(entry, settings, MemoryShare())\n"
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"
