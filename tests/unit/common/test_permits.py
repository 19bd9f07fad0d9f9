"""The envelope that the scripts push is the one that Celery itself would write."""

from __future__ import annotations

import base64
import json
from typing import Any

from celery import Celery
from kombu import Queue

from common.permits import PERMIT_TEMPLATE, TASK_NAME
from common.queue import create_celery

QUEUE = "baton:permits:m"
# What differs from message to message, or names the process that sent it.
OWN = {"origin", "argsrepr", "delivery_tag", "reply_to"}


def written_by_celery() -> dict[str, Any]:
    settings = create_celery("redis://127.0.0.1:1/0").conf
    app = Celery("test", broker="memory://")
    app.conf.update(task_serializer=settings.task_serializer, task_ignore_result=True)

    @app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
    def run() -> None: ...

    with app.connection_for_write() as connection:
        run.apply_async((), task_id="job", queue=Queue(QUEUE), connection=connection)
        message: dict[str, Any] = connection.default_channel._get(QUEUE)
    return message


def written_by_us() -> dict[str, Any]:
    text = PERMIT_TEMPLATE
    for name, value in {"TASK": "job", "TAG": "tag", "QUEUE": QUEUE}.items():
        text = text.replace(f"@{name}@", json.dumps(value))
    message: dict[str, Any] = json.loads(text)
    return message


def without_own(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in OWN}


def test_the_headers_are_those_that_celery_writes() -> None:
    assert without_own(written_by_us()["headers"]) == without_own(written_by_celery()["headers"])


def test_the_properties_are_those_that_celery_writes() -> None:
    ours, theirs = written_by_us()["properties"], written_by_celery()["properties"]
    assert set(ours) == set(theirs)
    assert ours["delivery_info"]["routing_key"] == theirs["delivery_info"]["routing_key"]
    skipped = {"delivery_info"}
    assert {k: v for k, v in without_own(ours).items() if k not in skipped} == {
        k: v for k, v in without_own(theirs).items() if k not in skipped
    }


def test_the_body_carries_no_arguments_as_celery_writes_them() -> None:
    ours, theirs = written_by_us(), written_by_celery()
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(
        base64.b64decode(theirs["body"])
    )
    for name in ("content-type", "content-encoding"):
        assert ours[name] == theirs[name]
