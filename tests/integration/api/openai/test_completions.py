from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types import Completion as SdkCompletion

from api.openai.answers import Completion
from common.schemas import JobRecord
from tests.integration.api.openai.support import MODEL, TextWorker, ids_of

PATH = "/v1/completions"
JSON = {"Content-Type": "application/json"}


async def complete(
    http: httpx.AsyncClient, worker: TextWorker, *texts: str, **fields: Any
) -> tuple[dict[str, Any], JobRecord]:
    """The body of an answer with these texts, and the job that it came from."""
    body = {"model": MODEL, "prompt": "Once", **fields}
    asking = asyncio.create_task(http.post(PATH, json=body))
    claim = await worker.answer(*(texts or ("hi",)))
    response = await asking
    assert response.status_code == 200, response.text
    answer = response.json()
    Completion.model_validate(answer)
    return answer, claim.record


async def test_an_answer_has_openais_shape(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body, record = await complete(live_http, worker, " upon a time")
    assert SdkCompletion.model_validate(body).choices[0].text == " upon a time"
    assert body["id"] == f"cmpl-{record.job_id}"
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["prompt_tokens"] == 4
    assert body["performance"]["batch_size"] == 2
    assert record.prompt_ids == ids_of("Once")  # and not through the chat template


async def test_token_ids_are_continued_as_they_are(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    _, record = await complete(live_http, worker, prompt=[5, 6, 7])
    assert record.prompt_ids == (5, 6, 7)


@pytest.mark.parametrize("prompts", [["a", "b", "c"], [[1], [2], [3, 4]]])
async def test_each_prompt_of_a_list_is_a_job_and_the_choices_count_on(
    openai: AsyncOpenAI, worker: TextWorker, prompts: Any
) -> None:
    asking = asyncio.create_task(
        openai.completions.create(model=MODEL, prompt=prompts, n=2, max_tokens=9)
    )
    claims = [await worker.next() for _ in prompts]
    for number, claim in enumerate(reversed(claims)):  # in whatever order they end
        worker.tell(claim, f"x{number}", 0)
        worker.tell(claim, f"y{number}", 1)
        worker.finish(claim)
    answer = await asking
    texts = [(choice.index, choice.text) for choice in answer.choices]
    assert texts == [(0, "x2"), (1, "y2"), (2, "x1"), (3, "y1"), (4, "x0"), (5, "y0")]
    assert answer.id == "cmpl-" + claims[0].record.job_id.removesuffix("-0")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


async def test_logprobs_are_listed_by_token_with_their_places_in_the_text(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body, record = await complete(live_http, worker, "aéb", logprobs=2)
    assert record.sampling.logprobs == 2
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", r"bytes:\xc3", r"bytes:\xa9", "b"]
    assert logprobs["token_logprobs"] == [-i / 256 for i in ids_of("aéb")]
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert [len(top) for top in logprobs["top_logprobs"]] == [3, 3, 3, 3]
    assert logprobs["top_logprobs"][0]["a"] == logprobs["token_logprobs"][0]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_echo_tells_how_likely_the_prompt_was_and_nothing_of_its_first_token(
    live_http: httpx.AsyncClient, worker: TextWorker, max_tokens: int
) -> None:
    said = "!" * max_tokens
    body, record = await complete(
        live_http, worker, said, prompt="abc", echo=True, logprobs=1, max_tokens=max_tokens
    )
    assert record.sampling.max_tokens == max_tokens
    assert record.sampling.prompt_logprobs == 1
    [choice] = body["choices"]
    assert choice["text"] == "abc" + said
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == list("abc" + said)
    assert logprobs["token_logprobs"] == [None, *(-i / 256 for i in ids_of(("abc" + said)[1:]))]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == list(range(3 + max_tokens))


async def test_echo_of_token_ids_is_their_text(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    ids = list(ids_of("Once"))
    body, record = await complete(live_http, worker, " upon", prompt=[ids], echo=True, n=1)
    assert body["choices"][0]["text"] == "Once upon"
    assert body["choices"][0]["logprobs"] is None
    assert record.sampling.prompt_logprobs is None


async def test_echo_alone_may_generate_nothing(
    live_http: httpx.AsyncClient, worker: TextWorker
) -> None:
    body, _ = await complete(live_http, worker, "", echo=True, max_tokens=0)
    assert body["choices"][0]["text"] == "Once"
    assert body["choices"][0]["logprobs"] is None


async def test_best_of_may_be_n(live_http: httpx.AsyncClient, worker: TextWorker) -> None:
    body, record = await complete(live_http, worker, "a", "b", n=2, best_of=2, suffix=None)
    assert record.sampling.n == 2
    assert len(body["choices"]) == 2


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": ""}, "prompt", "prompt must have at least one token; got none."),
        ({"prompt": []}, "prompt", "prompt must not be empty"),
        ({"prompt": [[]]}, "prompt", "prompt number 0 must have at least one token"),
        ({"prompt": {"a": 1}}, "prompt", "prompt must be a text, a list of texts"),
        ({"prompt": ["a", 1]}, "prompt", "not several of these"),
        ({"prompt": [1, "a"]}, "prompt", "prompt must hold token ids alone"),
        ({"prompt": [1, True]}, "prompt", "prompt must hold token ids alone"),
        ({"prompt": [[1, -1]]}, "prompt", "prompt number 0 must hold token ids alone"),
        ({"prompt": [256]}, "prompt", "from 0 to 255; got 256"),
        ({"prompt": "\ud800"}, "prompt", "lone surrogates"),
        ({"prompt": ["a"] * 129}, "prompt", "1 to 128 prompts; got 129"),
        ({"prompt": ["a", ""]}, "prompt", "Prompt 2 of 2"),
        ({"suffix": "x"}, "suffix", "suffix is not supported here"),
        ({"best_of": 3}, "best_of", "best_of must be n"),
        ({"max_tokens": 0}, "max_tokens", "2147483647, or 0 together with echo; got 0."),
        ({"max_tokens": -1}, "max_tokens", "2147483647, or 0 together with echo; got -1."),
        ({"max_tokens": 2**31}, "max_tokens", "or 0 together with echo; got 2147483648."),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "or 0 together with echo; got -1."),
        ({"logprobs": 21}, "logprobs", "logprobs must be from 0 to 20; got 21."),
        ({"logprobs": True}, "logprobs", "logprobs must be a valid integer; got true."),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo", "cannot be streamed"),
        ({"messages": []}, "messages", "messages is not a known field."),
        ({"max_tokens": 2000}, "max_tokens", "This model's maximum context length is 1000 tokens."),
    ],
)
async def test_bad_input_is_refused_by_name(
    live_http: httpx.AsyncClient,
    worker: TextWorker,
    fields: dict[str, Any],
    param: str | None,
    message: str,
) -> None:
    body = {"model": MODEL, "prompt": "Once", **fields}
    response = await live_http.post(PATH, content=json.dumps(body), headers=JSON)
    error = response.json()["error"]
    assert response.status_code == 400
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
