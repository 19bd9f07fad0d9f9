"""Log lines: what is in them, and in which file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.log import REQUEST_LOGGER, configure, log_context
from common.settings import Settings


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger(REQUEST_LOGGER)]
    before = [(log, log.handlers[:], log.level, log.propagate) for log in loggers]
    yield
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_every_line_names_the_request_and_task_it_belongs_to(tmp_path: Path) -> None:
    configure(Settings(log_dir=tmp_path), "gateway")
    with log_context(request_id="r", task_id="t"):
        logging.getLogger("x").info("hello", extra={"n": 1})
    logging.getLogger("x").info("outside")
    inside, outside = lines(tmp_path, "app.log")
    assert {
        "request_id": "r",
        "task_id": "t",
        "n": 1,
        "process": "gateway",
    }.items() <= inside.items()
    assert "task_id" not in outside


def test_errors_go_to_their_own_file_with_the_traceback(tmp_path: Path) -> None:
    configure(Settings(log_dir=tmp_path), "worker")
    logging.getLogger("x").warning("no error")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("x").exception("failed")
    [line] = lines(tmp_path, "errors.log")
    assert line["message"] == "failed"
    assert "ValueError: boom" in line["traceback"]


def test_the_request_log_is_apart_from_the_others(tmp_path: Path) -> None:
    configure(Settings(log_dir=tmp_path), "worker")
    logging.getLogger(REQUEST_LOGGER).info("job ended", extra={"model": "m"})
    [line] = lines(tmp_path, "llm_requests.log")
    assert line["model"] == "m"
    assert lines(tmp_path, "app.log") == []


def test_the_level_holds_back_what_is_below_it(tmp_path: Path) -> None:
    configure(Settings(log_dir=tmp_path, log_level="ERROR"), "worker")
    logging.getLogger("x").warning("quiet")
    assert lines(tmp_path, "app.log") == []
