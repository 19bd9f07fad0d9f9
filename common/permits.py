"""The permit: a Celery message that says "this model has work", as Celery itself would write it.

The job is in its record; a permit only wakes a worker. The scripts push permits inside the same
transaction as the record, so the envelope is built here once, with places for what differs, and
neither the gateway nor the scripts need Celery. A test compares it with Celery's own output.

Source: Celery message protocol, version 2, in kombu's Redis transport envelope.
"""

from __future__ import annotations

import base64
import json

TASK_NAME = "baton.run"
PERMIT_CAP = 1024
"""Permits that a model's list holds at most; a worker that finds it empty asks for more itself."""


def _template() -> str:
    body = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK_NAME,
            "id": "@TASK@",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "@TASK@",
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "baton",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "@TASK@",
            "reply_to": None,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "@QUEUE@"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "@TAG@",
        },
    }
    return json.dumps(envelope).replace('"@', "@").replace('@"', "@")


PERMIT_TEMPLATE = _template()
"""JSON with `@TASK@`, `@QUEUE@` and `@TAG@` where quoted strings belong."""

LUA_PERMITS = (
    f"local PERMIT_CAP = {PERMIT_CAP}\nlocal PERMIT_TEMPLATE = [==[{PERMIT_TEMPLATE}]==]\n"
)
