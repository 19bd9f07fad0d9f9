from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from common import keys
from common.connection import SyncRedis
from common.schemas import JobStatus, Prompt
from common.settings import Settings
from tests.integration.api.conftest import LiveGateway, StartLive
from tests.integration.api.openai.responses_support import (
    CALL,
    RESPONSES,
    TOOL,
    ask,
    ask_in_background,
    checked_body,
    get,
)
from tests.integration.api.openai.support import ENCODER, MODEL, TextWorker
from tests.integration.api.support import AS_BOB, eventually


async def answered(
    http: httpx.AsyncClient, worker: TextWorker, said: str = "Hi!", **fields: Any
) -> dict[str, Any]:
    asking = asyncio.create_task(ask(http, **fields))
    await worker.answer(said)
    return await asking


def prompt_of(*messages: tuple[str, str]) -> tuple[int, ...]:
    made: Any = tuple({"role": role, "content": content} for role, content in messages)
    return ENCODER.encode(Prompt(messages=made))


async def test_a_response_has_its_text_and_all_that_was_asked(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    asking = asyncio.create_task(
        ask(
            live_http,
            instructions="Be brief.",
            temperature=0.5,
            top_p=1,
            max_output_tokens=50,
            metadata={"a": "b"},
            user="u1",
        )
    )
    claim = await worker.answer("Hi!")
    body = await asking
    job_id = claim.record.job_id
    assert body["id"] == f"resp_{job_id}"
    assert body["status"] == "completed"
    assert body["created_at"] == claim.record.created_ms // 1000
    assert body["completed_at"] >= body["created_at"]
    part = {"type": "output_text", "text": "Hi!", "annotations": [], "logprobs": []}
    assert body["output"] == [
        {
            "id": f"msg_{job_id}-0",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
    ]
    assert body["usage"] == {
        "input_tokens": len(claim.record.prompt_ids),
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": len(claim.record.prompt_ids) + 3,
    }
    assert body["instructions"] == "Be brief."
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 1, 50)
    assert (body["metadata"], body["user"], body["background"]) == ({"a": "b"}, "u1", False)
    assert body["performance"]["batch_size"] == 2
    assert claim.record.sampling.max_tokens == 50
    assert await get(live_http, body["id"]) == body


async def test_input_and_instructions_reach_the_model_as_messages(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    given = [
        {"role": "developer", "content": "Rhyme."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
        },
        {"role": "user", "content": "Go on"},
    ]
    asking = asyncio.create_task(ask(live_http, given, instructions="Be brief."))
    claim = await worker.answer("x")
    await asking
    assert claim.record.prompt_ids == prompt_of(
        ("system", "Be brief."),
        ("system", "Rhyme."),
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", "Go on"),
    )


async def test_a_text_that_reached_its_limit_is_incomplete(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    asking = asyncio.create_task(ask(live_http, max_output_tokens=2))
    await worker.answer("Hi", finish_reasons=["length"])
    body = await asking
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["completed_at"] is None
    assert body["output"][0]["status"] == "incomplete"


async def test_a_background_response_goes_through_its_states(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = await ask(live_http, background=True)
    assert (body["status"], body["background"], body["output"]) == ("queued", True, [])
    assert (await get(live_http, body["id"]))["status"] == "queued"
    claim = await worker.next()
    assert (await get(live_http, body["id"]))["status"] == "in_progress"
    worker.tell(claim, "Hi")
    worker.hand_over(claim)
    # It waits for another worker, and has begun all the same.
    assert (await get(live_http, body["id"]))["status"] == "in_progress"
    claim = await worker.next()
    worker.tell(claim, " there")
    worker.finish(claim)
    body = await get(live_http, body["id"])
    assert body["status"] == "completed"
    assert body["output"][0]["content"][0]["text"] == "Hi there"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (("EngineError", "it broke"), "server_error"),
        (("ContextLengthError", "too long"), "invalid_prompt"),
        (("ModelLoadError", "no model"), "server_error"),
    ],
)
async def test_a_background_response_that_failed_says_why(
    live_http: httpx.AsyncClient, worker: TextWorker, error: tuple[str, str], code: str
) -> None:
    response_id = await ask_in_background(live_http)
    worker.fail(await worker.next(), *error)
    body = await get(live_http, response_id)
    assert (body["status"], body["output"]) == ("failed", [])
    assert (body["error"]["code"], body["error"]["message"]) == (code, error[1])


async def test_a_response_that_ran_out_of_time_failed_and_keeps_its_text(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    claim = await worker.next()
    worker.tell(claim, "Hi")
    worker.finish(claim, status=JobStatus.EXPIRED, finish_reasons=["timeout"])
    body = await get(live_http, response_id)
    assert (body["status"], body["error"]["type"]) == ("failed", "timeout_error")
    assert body["output"][0]["content"][0]["text"] == "Hi"
    assert body["output"][0]["status"] == "incomplete"


async def test_who_waits_for_a_response_that_fails_gets_a_status(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    asking = asyncio.create_task(live_http.post(RESPONSES, json={"model": MODEL, "input": "a"}))
    worker.fail(await worker.next(), "EngineError", "it broke")
    answer = await asking
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "task_failed"


async def test_hanging_up_cancels_a_response_that_is_waited_for(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    asking = asyncio.create_task(ask(live_http))
    claim = await worker.next()
    asking.cancel()
    await eventually(lambda: worker.is_cancelled(claim))


async def test_a_background_response_outlives_its_clients(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    claim = await worker.next()
    asking = asyncio.create_task(get(live_http, response_id))
    asking.cancel()
    worker.tell(claim, "Hi")
    assert not worker.is_cancelled(claim)


async def test_cancelling_is_told_to_the_worker_and_keeps_what_was_generated(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    claim = await worker.next()
    worker.tell(claim, "Hi")
    cancelling = asyncio.create_task(live_http.post(f"{RESPONSES}/{response_id}/cancel"))
    await eventually(lambda: worker.is_cancelled(claim))
    worker.finish(claim, status=JobStatus.CANCELLED, finish_reasons=["cancelled"])
    first = (await cancelling).json()
    assert checked_body(first)["status"] == "cancelled"
    assert first["output"][0]["content"][0]["text"] == "Hi"
    again = await live_http.post(f"{RESPONSES}/{response_id}/cancel")
    assert again.json() == first
    assert await get(live_http, response_id) == first


async def test_cancelling_a_waiting_or_an_answered_response(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    waiting = await ask_in_background(live_http)
    body = (await live_http.post(f"{RESPONSES}/{waiting}/cancel")).json()
    assert (checked_body(body)["status"], body["output"]) == ("cancelled", [])
    answered_id = await ask_in_background(live_http)
    await worker.answer("Hi")
    body = (await live_http.post(f"{RESPONSES}/{answered_id}/cancel")).json()
    assert checked_body(body)["status"] == "completed"


async def test_only_background_responses_can_be_cancelled(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = await answered(live_http, worker)
    answer = await live_http.post(f"{RESPONSES}/{body['id']}/cancel")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_id"


async def test_a_deleted_response_is_gone_with_what_was_kept_of_it(
    live_http: httpx.AsyncClient, worker: TextWorker, client: SyncRedis
) -> None:
    body = await answered(live_http, worker)
    answer = await live_http.delete(f"{RESPONSES}/{body['id']}")
    assert answer.json() == {"id": body["id"], "object": "response", "deleted": True}
    job_id = body["id"].removeprefix("resp_")
    assert not client.exists(keys.job(job_id), keys.events(job_id))
    for method, path in (
        ("GET", ""),
        ("GET", "/input_items"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        answer = await live_http.request(method, f"{RESPONSES}/{body['id']}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "response_not_found"


async def test_deleting_ends_a_response_that_runs(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    claim = await worker.next()
    assert (await live_http.delete(f"{RESPONSES}/{response_id}")).status_code == 200
    assert worker.is_cancelled(claim)
    assert (await live_http.get(f"{RESPONSES}/{response_id}")).status_code == 404
    worker.finish(claim, status=JobStatus.CANCELLED, finish_reasons=["cancelled"])
    assert (await live_http.get(f"{RESPONSES}/{response_id}")).status_code == 404


async def test_a_response_is_seen_by_its_own_key_alone(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    response_id = await ask_in_background(live_http)
    for method, path in (
        ("GET", ""),
        ("GET", "?stream=true"),
        ("GET", "/input_items"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        url = f"{RESPONSES}/{response_id}{path}"
        assert (await live_http.request(method, url, headers=AS_BOB)).status_code == 404
    body = {"model": MODEL, "input": "a", "previous_response_id": response_id}
    answer = await live_http.post(RESPONSES, json=body, headers=AS_BOB)
    assert answer.status_code == 400
    assert (await get(live_http, response_id))["status"] == "queued"


@pytest.mark.parametrize("name", ["resp_x", "resp_", "x", "resp_a%20b", "resp_" + "a" * 100])
async def test_what_is_no_response_is_404(
    live_http: httpx.AsyncClient, worker: TextWorker, name: str
) -> None:
    answer = await live_http.get(f"{RESPONSES}/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_other_jobs_are_no_responses(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    task_id = (await live_http.post("/generate", json={"prompt": "a"})).json()["task_id"]
    assert (await live_http.get(f"{RESPONSES}/resp_{task_id}")).status_code == 404


async def test_a_response_that_is_not_stored_is_answered_once(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = await answered(live_http, worker, store=False)
    assert body["store"] is False
    assert (await live_http.get(f"{RESPONSES}/{body['id']}")).status_code == 404
    again = {"model": MODEL, "input": "a", "previous_response_id": body["id"]}
    assert (await live_http.post(RESPONSES, json=again)).status_code == 400


async def test_a_response_goes_on_from_an_earlier_one_without_its_instructions(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    first = await answered(live_http, worker, "Hi!", given="One", instructions="Be brief.")
    second = await answered(
        live_http, worker, "Yes.", given="Two", previous_response_id=first["id"]
    )
    await live_http.delete(f"{RESPONSES}/{first['id']}")  # what came of it does not need it
    asking = asyncio.create_task(
        ask(live_http, "Three", previous_response_id=second["id"], instructions="Rhyme.")
    )
    claim = await worker.answer("No.")
    third = await asking
    assert third["previous_response_id"] == second["id"]
    assert claim.record.prompt_ids == prompt_of(
        ("system", "Rhyme."),
        ("user", "One"),
        ("assistant", "Hi!"),
        ("user", "Two"),
        ("assistant", "Yes."),
        ("user", "Three"),
    )
    listed = (await live_http.get(f"{RESPONSES}/{third['id']}/input_items?order=asc")).json()
    texts = [item["content"][0]["text"] for item in listed["data"]]
    assert texts == ["One", "Hi!", "Two", "Yes.", "Three"]
    assert listed["data"][1]["id"] == first["output"][0]["id"]


async def test_an_earlier_response_has_to_be_there_and_answered(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    waiting = await ask_in_background(live_http)
    failed = await ask_in_background(live_http)
    for previous in (waiting, failed, "resp_unknown", "chatcmpl-1"):
        if previous == failed:
            await worker.next()
            worker.fail(await worker.next(), "EngineError", "it broke")
        body = {"model": MODEL, "input": "a", "previous_response_id": previous}
        answer = await live_http.post(RESPONSES, json=body)
        assert answer.status_code == 400, previous
        assert answer.json()["error"]["param"] == "previous_response_id"


async def test_a_call_that_was_cut_off_cannot_be_gone_on_from(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    first = await answered(live_http, worker, CALL[:55], tools=[TOOL])
    body = {"model": MODEL, "input": "a", "previous_response_id": first["id"]}
    error = (await live_http.post(RESPONSES, json=body)).json()["error"]
    assert error["param"] == "previous_response_id"
    assert "valid JSON" in error["message"]


async def test_calls_and_their_results_go_back_and_forth(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    first = await answered(live_http, worker, "Let me see." + CALL, tools=[TOOL])
    message, call = first["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (call["type"], call["name"], call["status"]) == (
        "function_call",
        "get_weather",
        "completed",
    )
    assert json.loads(call["arguments"]) == {"city": "Paris"}
    assert first["tools"] == [TOOL]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    by_id = await answered(
        live_http, worker, "Sunny.", given=[result], previous_response_id=first["id"], tools=[TOOL]
    )
    by_items = await answered(
        live_http,
        worker,
        "Sunny.",
        given=[{"role": "user", "content": "Hello!"}, message, call, result],
        tools=[TOOL],
    )
    assert by_id["usage"]["input_tokens"] == by_items["usage"]["input_tokens"]
    listed = (await live_http.get(f"{RESPONSES}/{by_id['id']}/input_items?order=asc")).json()
    types = [item["type"] for item in listed["data"]]
    assert types == ["message", "message", "function_call", "function_call_output"]


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "get_weather"},
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "get_weather"}],
        },
    ],
)
async def test_a_forced_call_is_a_grammar(
    live_http: httpx.AsyncClient, worker: TextWorker, choice: Any
) -> None:
    other = {"type": "function", "name": "other"}
    asking = asyncio.create_task(ask(live_http, tools=[TOOL, other], tool_choice=choice))
    claim = await worker.answer(CALL)
    assert "get_weather" in claim.record.sampling.grammar.text
    assert ("other" in claim.record.sampling.grammar.text) == (choice == "required")
    body = await asking
    assert [item["type"] for item in body["output"]] == ["function_call"]
    assert body["tool_choice"] == choice


async def test_with_tool_choice_none_what_looks_like_a_call_is_text(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = await answered(live_http, worker, CALL, tools=[TOOL], tool_choice="none")
    assert body["output"][0]["content"][0]["text"] == CALL


async def test_a_text_format_is_a_grammar_and_comes_back(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    asking = asyncio.create_task(ask(live_http, text=given))
    claim = await worker.answer('{"a": 1}')
    assert json.loads(claim.record.sampling.grammar.text) == schema
    assert (await asking)["text"] == given


@pytest.mark.parametrize(
    ("fields", "count"),
    [({"include": ["message.output_text.logprobs"]}, 0), ({"top_logprobs": 2}, 2)],
)
async def test_logprobs_come_with_their_tokens(
    live_http: httpx.AsyncClient, worker: TextWorker, fields: Any, count: int
) -> None:
    body = await answered(live_http, worker, "ab", **fields)
    listed = body["output"][0]["content"][0]["logprobs"]
    assert [each["token"] for each in listed] == ["a", "b"]
    assert [len(each["top_logprobs"]) for each in listed] == [count, count]
    assert body["top_logprobs"] == count


async def test_input_items_come_in_pages(live_http: httpx.AsyncClient, worker: TextWorker) -> None:
    given = [{"role": "user", "content": str(i)} for i in range(5)]
    response_id = await ask_in_background(live_http, given)
    url = f"{RESPONSES}/{response_id}/input_items"
    seen: list[str] = []
    after: dict[str, Any] = {}
    for expected in (2, 2, 1):
        page = (await live_http.get(url, params={"limit": 2, **after})).json()
        assert len(page["data"]) == expected
        assert page["has_more"] == (expected == 2 and len(seen) < 4 - 1)
        seen += [item["content"][0]["text"] for item in page["data"]]
        after = {"after": page["last_id"]}
    assert seen == ["4", "3", "2", "1", "0"]
    answer = await live_http.get(url, params={"after": "x"})
    assert answer.json()["error"]["param"] == "after"


async def test_items_with_the_same_id_are_told_apart(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    given = [{"role": "user", "content": str(i), "id": "msg_1"} for i in range(3)]
    response_id = await ask_in_background(live_http, given)
    page = (await live_http.get(f"{RESPONSES}/{response_id}/input_items")).json()
    assert len({item["id"] for item in page["data"]}) == 3


async def test_a_repeat_with_its_idempotency_key_is_the_same_response(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await ask(live_http, background=True, headers=headers)
    await worker.answer("Hi")
    again = await live_http.post(
        RESPONSES, json={"model": MODEL, "input": "Hello!", "background": True}, headers=headers
    )
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["id"] == first["id"]
    assert again.json()["status"] == "completed"


async def test_a_repeat_is_answered_also_where_what_it_went_on_from_is_gone(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    first = await answered(live_http, worker)
    fields = {"previous_response_id": first["id"], "headers": {"Idempotency-Key": "k"}}
    second = await answered(live_http, worker, "Two", **fields)
    await live_http.delete(f"{RESPONSES}/{first['id']}")
    assert await ask(live_http, **fields) == second


async def test_what_is_asked_counts_toward_the_rate_and_reads_do_not(
    start_live: StartLive, make_settings: Callable[..., Settings], worker: TextWorker
) -> None:
    live = start_live(make_settings(rate_limit_per_minute=1, rate_limit_burst=1))
    body = {"model": MODEL, "input": "a", "background": True}
    async with live.client() as http:
        answer = await http.post(RESPONSES, json=body)
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        for _ in range(3):
            await get(http, answer.json()["id"])
        answer = await http.post(RESPONSES, json=body)
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.headers["Retry-After"]


async def test_a_response_is_accepted_before_its_model_is_known(
    live: LiveGateway, live_http: httpx.AsyncClient, client: SyncRedis, settings: Settings
) -> None:
    worker = TextWorker(client, settings)  # has announced nothing
    response_id = await ask_in_background(live_http, tools=[TOOL])
    await worker.answer(CALL)
    body = await get(live_http, response_id)
    assert [item["type"] for item in body["output"]] == ["function_call"]


async def test_fields_that_change_nothing_are_taken(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body = await answered(
        live_http,
        worker,
        reasoning={"effort": "low"},
        truncation="auto",
        service_tier="flex",
        parallel_tool_calls=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="a",
        safety_identifier="b",
        max_tool_calls=3,
        text={"verbosity": "low"},
        tool_choice="auto",
        conversation=None,
    )
    assert body["parallel_tool_calls"] is False
    assert body["truncation"] == "disabled"


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": "a", "x": 1}]}, "input[0].x"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        (
            {
                "instructions": "a",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}, IMAGE]},
                ],
            },
            "input[0].content[1]",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name"),
        (
            {"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"}]},
            "input[0].arguments",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]},
            "input[0].call_id",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input[0].output"),
        ({"input": "\ud800"}, "input"),
        ({"input": [{"role": "user", "content": "\ud800"}]}, "input[0].content"),
        ({"instructions": 3}, "instructions"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"tools": [{**TOOL, "description": "\ud800"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "x"}]},
            },
            "tool_choice.tools[0].name",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"background": True, "store": False}, "background"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"n": 2}, "n"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_what_is_wrong_is_named(
    live_http: httpx.AsyncClient, worker: TextWorker, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({"model": MODEL, "input": "a", **fields})
    answer = await live_http.post(
        RESPONSES, content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param.split("[")[0].split(".")[0] in error["message"]


async def test_an_unknown_model_is_not_found(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    answer = await live_http.post(RESPONSES, json={"model": "x", "input": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("query", ["stream=maybe", "stream=true&starting_after=-1"])
async def test_a_malformed_query_is_named(
    live_http: httpx.AsyncClient, worker: TextWorker, query: str
) -> None:
    response_id = await ask_in_background(live_http)
    answer = await live_http.get(f"{RESPONSES}/{response_id}?{query}")
    assert answer.status_code == 400
