"""Logs: readable lines on the console, JSON lines in three files that all processes share.

    app.log           everything from LOG_LEVEL up
    errors.log        errors, with their tracebacks
    llm_requests.log  one line per ended job; never prompt or output unless LOG_PROMPTS is true

Every line has the time, the process, and the request and task it belongs to, where there is one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from concurrent_log_handler import ConcurrentRotatingFileHandler

from common.errors import SettingsError
from common.settings import Settings

MAX_FILE_BYTES = 50 * 1024 * 1024
NUM_OLD_FILES = 5
REQUEST_LOGGER = "baton.llm_requests"

_context: ContextVar[dict[str, str]] = ContextVar("log_context", default={})  # noqa: B039 - never changed in place
# `color_message` is uvicorn's second copy of its message; `data` is Celery's.
_RESERVED = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("message", "asctime", "taskName", "color_message", "data"),
}


@contextmanager
def log_context(**names: str) -> Iterator[None]:
    """Add `request_id`, `task_id`, ... to every line that is logged inside."""
    token = _context.set({**_context.get(), **names})
    try:
        yield
    finally:
        _context.reset(token)


def configure(settings: Settings, process: str) -> None:
    """Send this process's logs to the console and the files.

    Args:
        settings: `log_dir`, `log_level`, `log_format`.
        process: What this process is called in the lines, such as `gateway`.

    Raises:
        SettingsError: `log_dir` cannot be written.
    """
    as_json = JsonFormatter(process)
    try:
        app, errors, requests_file = _files(settings.log_dir, as_json)
    except OSError as error:
        raise SettingsError(
            f"LOG_DIR={settings.log_dir}: cannot be written: {error.strerror}. "
            "Example: LOG_DIR=/tmp/baton-logs"
        ) from error
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(as_json if settings.log_format == "json" else TextFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [console, app, errors]
    root.setLevel(settings.log_level)
    requests = logging.getLogger(REQUEST_LOGGER)
    requests.handlers[:] = [requests_file]
    requests.setLevel(logging.INFO)
    requests.propagate = False
    # Celery would write two lines a job, both said better by the line that ends it.
    celery = ("celery.worker.strategy",)
    # slowapi: a line for each 429, which we log. celery.app.trace: a traceback for each permit
    # that a leaving worker hands back. huggingface_hub: each of its retries, twice.
    for noisiest in ("slowapi", "celery.app.trace", "huggingface_hub"):
        logging.getLogger(noisiest).setLevel(max(logging.ERROR, root.level))
    for noisy in ("httpx", "urllib3", "filelock", "kombu", "amqp", "uvicorn.error", *celery):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what was passed as `extra` becomes a field."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Source: logging.Formatter."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "pid": os.getpid(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """`12:00:00 gateway INFO message key=value ...` for a person to read."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s {process:<9} %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Source: logging.Formatter."""
        head, newline, rest = super().format(record).partition("\n")
        fields = {**_context.get(), **_extra(record)}
        shown = "".join(f" {name}={value}" for name, value in fields.items())
        return head + shown + newline + rest


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _RESERVED}


def _files(folder: Path, formatter: logging.Formatter) -> tuple[logging.Handler, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _file(folder / "app.log", formatter),
        _file(folder / "errors.log", formatter, logging.ERROR),
        _file(folder / "llm_requests.log", formatter),
    )


def _file(path: Path, formatter: logging.Formatter, level: int = logging.NOTSET) -> logging.Handler:
    path.touch()  # an empty error log says more than none
    handler = ConcurrentRotatingFileHandler(
        str(path), maxBytes=MAX_FILE_BYTES, backupCount=NUM_OLD_FILES, encoding="utf-8"
    )
    handler.setFormatter(formatter)
    handler.setLevel(level)
    return handler
