"""A background response of the real service, whose worker dies while it is streamed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.service import KEY, Service

StartService = Callable[..., Service]
MODEL = "baton-toy"
STORY: dict[str, Any] = {
    "model": MODEL,
    "input": "Once upon a time",
    "max_output_tokens": 200,
    "extra_body": {"seed": 11, "ignore_eos": True},
}


def text_of(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


@pytest.mark.parametrize("settings", [{"LEASE_S": 3600}], ids=["the launcher hands the job back"])
def test_a_background_stream_is_taken_up_after_its_worker_was_killed(
    start_service: StartService, settings: dict[str, Any]
) -> None:
    service = start_service(**settings)
    service.wait_until_ready()
    with OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as client:
        expected = client.responses.create(**STORY)
        assert expected.status == "incomplete"  # for it goes on to its limit

        before: list[Any] = []
        with client.responses.create(**STORY, background=True, stream=True) as stream:
            for event in stream:
                before.append(event)
                if len(before) == 8:
                    [process] = service.pids("worker.main")
                    os.kill(process, signal.SIGKILL)
                    break
        response_id, last = before[0].response.id, before[-1].sequence_number
        after = list(client.responses.retrieve(response_id, stream=True, starting_after=last))

        seen = [*before, *after]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert text_of(seen) == expected.output_text
        assert after[-1].type == "response.incomplete"
        response = client.responses.retrieve(response_id)
        assert after[-1].response == response
        assert response.output_text == expected.output_text
        assert list(client.responses.retrieve(response_id, stream=True)) == seen
    with service.http() as http:
        task_id = response_id.removeprefix("resp_")
        assert http.get(f"/status/{task_id}").json()["attempt"] == 2
