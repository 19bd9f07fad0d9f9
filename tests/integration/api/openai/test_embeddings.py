"""`/v1/embeddings` by OpenAI's own client, with a worker that has a tiny real model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai as sdk
import pytest
import torch
from openai import AsyncOpenAI
from torch import Tensor

from api.answers import EmbeddedAnswer, StatusAnswer
from api.openai.answers import EmbeddingsList
from common import keys
from common.connection import SyncRedis
from common.embeddings import MAX_INPUT_TOKENS, Embeddings
from common.schemas import JobRecord
from common.settings import Settings
from tests.integration.api.batches.support import entries, submit, until
from tests.integration.api.conftest import LiveGateway
from tests.integration.api.openai.support import CARD, openai_client
from tests.integration.api.openai.test_errors import error_of
from tests.integration.api.openai.test_waiting import hang_up, job_ids, status_of
from tests.integration.api.support import MODEL as GENERATES
from tests.integration.api.support import HandWorker, eventually
from tests.integration.embedding_worker import MODEL, EmbeddingWorker
from tests.tiny_embedder import SIZE, write_tiny_embedder
from worker.engine.embedder import Embedder, load_embedder

PATH = "/v1/embeddings"
JSON = {"Content-Type": "application/json"}
TEXTS = ["A little dog.", "A cat", "The dog was happy, and so was the cat."]
TOLERANCE = 1e-5


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_embedder(tmp_path / "model")


@pytest.fixture
def settings(make_settings: Callable[..., Settings], model: Path, tmp_path: Path) -> Settings:
    models = [
        {"id": GENERATES, "source": "baton-toy"},
        {"id": MODEL, "path": str(model), "kind": "embed", "aliases": ["e"]},
    ]
    return make_settings(models=json.dumps(models), data_dir=tmp_path / "data", device="cpu")


@pytest.fixture
def worker(settings: Settings, model: Path) -> Iterator[EmbeddingWorker]:
    with EmbeddingWorker(settings, model) as worker:
        yield worker


@pytest.fixture
async def openai(worker: EmbeddingWorker, live: LiveGateway) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(live.url) as client:
        yield client


def expected(model: Path, rows: Sequence[Sequence[int]]) -> Tensor:
    return load_embedder(str(model), device="cpu", dtype="float32").embed(rows)


def ids_of(model: Path, text: str) -> list[int]:
    embedder = load_embedder(str(model), device="cpu", dtype="float32")
    ids: list[int] = embedder.tokenizer.backend_tokenizer.encode(text).ids
    return ids


def assert_close(found: Any, vectors: Tensor) -> None:
    assert float((torch.tensor(found) - vectors).abs().max()) < TOLERANCE


@contextmanager
def first_batch_stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The first batch inside waits until the block is left; the event is set when it has begun."""
    began, go = threading.Event(), threading.Event()
    embed = Embedder.embed

    def slowly(self: Embedder, rows: Sequence[Sequence[int]]) -> Tensor:
        if not began.is_set():
            began.set()
            assert go.wait(30)
        return embed(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Embedder, "embed", slowly)
        try:
            yield began
        finally:
            go.set()


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}])
async def test_the_vectors_are_the_models_in_the_order_of_the_inputs(
    openai: AsyncOpenAI, model: Path, options: Any
) -> None:
    answer = await openai.embeddings.create(model=MODEL, input=TEXTS, **options)
    rows = [ids_of(model, text) for text in TEXTS]
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert_close([each.embedding for each in answer.data], expected(model, rows))
    assert answer.model == MODEL
    num_tokens = sum(map(len, rows))
    assert answer.usage.model_dump() == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


async def test_a_text_its_ids_and_both_in_lists_give_the_same_vector(
    openai: AsyncOpenAI, model: Path
) -> None:
    ids = ids_of(model, TEXTS[0])
    forms: list[Any] = [TEXTS[0], [TEXTS[0]], ids, [ids]]
    answers = [await openai.embeddings.create(model="e", input=form) for form in forms]
    for answer in answers:
        [only] = answer.data
        assert_close(only.embedding, expected(model, [ids])[0])


async def test_both_forms_are_as_documented(
    worker: EmbeddingWorker, live_http: httpx.AsyncClient
) -> None:
    body = {"model": MODEL, "input": ["a", "b"], "user": "u", "dimensions": SIZE}
    for encoding, kind in (("float", list), ("base64", str)):
        response = await live_http.post(PATH, json=body | {"encoding_format": encoding})
        assert response.status_code == 200, response.text
        found = EmbeddingsList.model_validate(response.json())
        assert [type(each.embedding) for each in found.data] == [kind, kind]
        assert list(response.json()) == ["object", "data", "model", "usage"]
        assert "x-ratelimit-remaining-requests" in response.headers


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": ""}, "input", "input[0] is empty"),
        ({"input": ["a", ""]}, "input", "input[1] is empty"),
        ({"input": [[5], []]}, "input", "input[1] is empty"),
        ({"input": []}, "input", "1 to 2048 inputs; got 0"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 inputs"),
        ({"input": ["a", 5]}, "input", "input[1] is wrong"),
        ({"input": [5, "a"]}, "input", "whole numbers"),
        ({"input": [[5], "a"]}, "input", "input[1] is wrong"),
        ({"input": 5}, "input", "a text, a list of texts"),
        ({"input": [5, 10_000]}, "input", "input[0] must hold tokens of 'embedder'"),
        ({"input": [True]}, "input", "input[0] is wrong"),
        ({"dimensions": SIZE - 1}, "dimensions", f"dimensions must be {SIZE}"),
        # Refused before they are looked at: the last one is no id.
        (
            {"input": [1] * MAX_INPUT_TOKENS + ["a"]},
            *("input", "must have at most 300000 tokens in all; got 300001"),
        ),
        ({"input": [[1] * 200_000, [1] * 200_000]}, "input", "tokens in all; got 400000"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"timeout": 1e6}, "timeout", "TASK_TIME_LIMIT"),
        ({"model": GENERATES}, "model", "models of kind embed"),
        ({"stream": True}, "stream", "not a known field"),
    ],
)
async def test_bad_input_is_refused_with_the_field_and_the_index(
    worker: EmbeddingWorker,
    live_http: httpx.AsyncClient,
    fields: dict[str, Any],
    param: str,
    message: str,
) -> None:
    response = await live_http.post(PATH, json={"model": MODEL, "input": "a"} | fields)
    error = error_of(response, 400)
    assert (error["param"], error["code"]) == (param, "invalid_request")
    assert message in error["message"]


def body_of_size(num_bytes: int) -> bytes:
    """2,048 inputs of ids that fill most of it, of which the last is no token of the model's."""
    inputs = [[3] * 30] * 2047 + [[2**31 - 1]]
    body = json.dumps({"model": MODEL, "input": inputs}, indent=20).encode()
    return body + b" " * (num_bytes - len(body))


async def test_a_body_of_4_mib_is_read_and_its_inputs_are_encoded(
    worker: EmbeddingWorker, live_http: httpx.AsyncClient
) -> None:
    content = body_of_size(4 << 20)
    assert len(content) == 4 << 20
    response = await live_http.post(PATH, content=content, headers=JSON)
    assert "input[2047] must hold tokens" in error_of(response, 400)["message"]


async def test_a_body_over_4_mib_is_413(
    worker: EmbeddingWorker, live_http: httpx.AsyncClient
) -> None:
    response = await live_http.post(PATH, content=body_of_size((4 << 20) + 1), headers=JSON)
    assert "limit of 4194304 bytes" in error_of(response, 413)["message"]


async def test_an_input_that_is_too_long_is_refused_by_its_index_and_not_cut(
    openai: AsyncOpenAI,
) -> None:
    with pytest.raises(sdk.BadRequestError) as raised:
        await openai.embeddings.create(model=MODEL, input=["a", "b" * 100])
    assert raised.value.code == "context_length_exceeded"
    assert "input[1] has 102 tokens" in raised.value.message


async def test_a_model_that_makes_embeddings_does_not_chat(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.BadRequestError, match="cannot generate"):
        await openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}]
        )


async def test_an_embedding_model_is_listed_and_looked_at(openai: AsyncOpenAI) -> None:
    listed = [each.id async for each in openai.models.list()]
    assert listed == [GENERATES, MODEL]
    found: Any = await openai.models.retrieve(MODEL)
    assert (found.loaded, found.max_model_len) == (True, 66)


async def test_many_requests_are_answered_each_with_its_own(
    openai: AsyncOpenAI, model: Path
) -> None:
    texts = [f"text number {i}" for i in range(30)]
    answers = await asyncio.gather(
        *(openai.embeddings.create(model=MODEL, input=text) for text in texts)
    )
    vectors = expected(model, [ids_of(model, text) for text in texts])
    assert_close([answer.data[0].embedding for answer in answers], vectors)


async def test_the_most_inputs_of_a_request_are_one_job(
    openai: AsyncOpenAI, client: SyncRedis, model: Path
) -> None:
    answer = await openai.embeddings.create(model=MODEL, input=[[5 + i % 200] for i in range(2048)])
    assert [each.index for each in answer.data] == list(range(2048))
    assert_close(answer.data[2047].embedding, expected(model, [[5 + 2047 % 200]])[0])
    assert len(job_ids(client)) == 1


async def test_a_repeat_with_the_same_key_gets_the_same_answer_and_runs_once(
    openai: AsyncOpenAI, client: SyncRedis
) -> None:
    headers = {"Idempotency-Key": "mine"}
    answers = [
        await openai.embeddings.create(model=MODEL, input=TEXTS, extra_headers=headers)
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert len(job_ids(client)) == 1


async def test_a_client_that_hangs_up_has_its_running_job_stopped(
    openai: AsyncOpenAI,
    worker: EmbeddingWorker,
    client: SyncRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker.backend.most_tokens = 64
    with first_batch_stalled(monkeypatch) as began:
        asking = asyncio.create_task(openai.embeddings.create(model=MODEL, input=TEXTS * 100))
        await eventually(began.is_set)
        [job_id] = job_ids(client)
        await hang_up(asking)
        await eventually(lambda: bool(client.hexists(keys.job(job_id), "cancel")))
    await eventually(lambda: status_of(client, job_id) == "cancelled")


async def test_a_job_over_its_time_is_told_as_a_timeout(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.APIStatusError) as raised:
        await openai.embeddings.create(
            model=MODEL, input=TEXTS * 600, extra_body={"timeout": 0.0001}
        )
    assert raised.value.status_code == 504


async def test_a_job_whose_worker_is_lost_is_computed_again(
    settings: Settings,
    model: Path,
    live: LiveGateway,
    client: SyncRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with openai_client(live.url) as openai:
        # The batch goes on before the first worker is stopped, which waits for it.
        first = EmbeddingWorker(settings, model, "first")
        with first, first_batch_stalled(monkeypatch) as began:
            asking = asyncio.create_task(openai.embeddings.create(model=MODEL, input=TEXTS))
            await eventually(began.is_set)
            [held] = first.held.all()
            first.leave_alone()
            first.held.drop(held, "lost")
            assert first.claims.release(held.job_id, held.claim.nonce) == "requeued"
            with EmbeddingWorker(settings, model, "second"):
                answer = await asking
    rows = [ids_of(model, text) for text in TEXTS]
    assert_close([each.embedding for each in answer.data], expected(model, rows))


async def test_a_job_that_was_accepted_before_its_model_was_known_is_encoded_by_the_worker(
    settings: Settings, model: Path, live: LiveGateway, client: SyncRedis
) -> None:
    async with openai_client(live.url) as openai:
        good = asyncio.create_task(openai.embeddings.create(model=MODEL, input=[TEXTS[0], "é"]))
        long = asyncio.create_task(openai.embeddings.create(model=MODEL, input=["a", "b" * 100]))
        other: Any = {"model": MODEL, "input": "a", "dimensions": 5}
        small = asyncio.create_task(openai.embeddings.create(**other))
        await eventually(lambda: len(job_ids(client)) == 3)
        with EmbeddingWorker(settings, model):
            rows = [ids_of(model, TEXTS[0]), ids_of(model, "é")]
            assert_close([each.embedding for each in (await good).data], expected(model, rows))
            with pytest.raises(sdk.BadRequestError, match=r"input\[1\] has 102 tokens"):
                await long
            with pytest.raises(sdk.BadRequestError, match=f"dimensions must be {SIZE}"):
                await small


async def test_the_native_endpoints_show_the_job_and_its_vectors(
    openai: AsyncOpenAI, live_http: httpx.AsyncClient, client: SyncRedis, model: Path
) -> None:
    await openai.embeddings.create(model=MODEL, input=TEXTS)
    [job_id] = job_ids(client)
    status = (await live_http.get(f"/status/{job_id}")).json()
    StatusAnswer.model_validate(status)
    assert (status["status"], status["progress"]["completion_tokens"]) == ("completed", 0)
    result = (await live_http.get(f"/result/{job_id}")).json()
    found = EmbeddedAnswer.model_validate(result)
    rows = [ids_of(model, text) for text in TEXTS]
    vectors = [Embeddings(SIZE, each).floats()[0] for each in found.embeddings]
    assert_close(vectors, expected(model, rows))
    assert found.dimensions == SIZE
    assert found.metrics.prompt_tokens == sum(map(len, rows))
    stream = await live_http.get(f"/stream/{job_id}")
    assert '"status":"completed"' in stream.text
    record = JobRecord.from_fields(job_id, client.hgetall(keys.job(job_id)))
    assert record.inputs == tuple(map(tuple, rows))


async def test_prompt_tokens_are_counted_and_none_are_generated(
    openai: AsyncOpenAI, client: SyncRedis, model: Path
) -> None:
    await openai.embeddings.create(model=MODEL, input=TEXTS)
    num_tokens = sum(len(ids_of(model, text)) for text in TEXTS)
    counters = client.hgetall(keys.COUNTERS)
    assert (counters["prompt_tokens"], counters["generation_tokens"]) == (str(num_tokens), "0")
    tally = client.hgetall(keys.TALLIES + MODEL)
    assert tally["tokens:prompt"] == str(num_tokens)


def line(custom_id: str, **body: Any) -> str:
    fields = {"model": MODEL, "input": "a"} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH, "body": fields})


async def test_lines_of_a_batch_are_answered_as_requests_are(
    worker: EmbeddingWorker, live_http: httpx.AsyncClient, model: Path
) -> None:
    lines = [
        line("one", input=TEXTS),
        line("packed", encoding_format="base64"),
        line("long", input="b" * 100),
        line("wrong", model=GENERATES),
    ]
    batch = await until(live_http, await submit(live_http, lines, endpoint=PATH), "completed")
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    found = {each["custom_id"]: each for each in await entries(live_http, batch["output_file_id"])}
    one = EmbeddingsList.model_validate(found["one"]["response"]["body"])
    rows = [ids_of(model, text) for text in TEXTS]
    assert_close([each.embedding for each in one.data], expected(model, rows))
    assert isinstance(found["packed"]["response"]["body"]["data"][0]["embedding"], str)
    failed = await entries(live_http, batch["error_file_id"])
    codes = {each["custom_id"]: each["response"]["body"]["error"]["code"] for each in failed}
    assert codes == {"long": "context_length_exceeded", "wrong": "invalid_request"}


async def test_without_a_worker_a_request_is_refused_after_a_while(
    live: LiveGateway,
    client: SyncRedis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    HandWorker(client, settings).publish(CARD)
    monkeypatch.setattr("api.waiting.NO_WORKER_S", 0.2)
    async with openai_client(live.url) as openai:
        with pytest.raises(sdk.APIStatusError) as raised:
            await openai.embeddings.create(model=MODEL, input="a")
    assert raised.value.status_code == 503
    assert raised.value.code == "no_worker"
