"""`/tokenize`, `/batch/tokenize`, `/detokenize`, with a tokenizer of one token for each byte."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from tests.fakes import byte_tokenizer, fake_card
from tests.integration.api.support import MODEL, HandWorker

TEXT = "Hello, wörld! 🙂"


@pytest.fixture
def announced(worker: HandWorker) -> HandWorker:
    worker.publish(fake_card(MODEL))
    return worker


async def test_a_text_becomes_the_tokens_of_the_models_tokenizer(
    http: httpx.AsyncClient, announced: HandWorker
) -> None:
    response = await http.post("/tokenize", json={"text": TEXT})

    assert response.status_code == 200
    body = response.json()
    assert body["num_tokens"] == len(body["token_ids"]) == len(TEXT.encode())


async def test_tokens_become_their_text_again(
    http: httpx.AsyncClient, announced: HandWorker
) -> None:
    token_ids = (await http.post("/tokenize", json={"text": TEXT})).json()["token_ids"]

    response = await http.post("/detokenize", json={"token_ids": token_ids, "model_id": MODEL})

    assert response.json() == {"text": TEXT}


async def test_a_batch_is_answered_in_its_order(
    http: httpx.AsyncClient, announced: HandWorker
) -> None:
    texts = ["First text", "", "Third"]

    response = await http.post("/batch/tokenize", json={"texts": texts})

    alone = [(await http.post("/tokenize", json={"text": text})).json() for text in texts]
    assert response.json() == {"results": alone}
    assert [each["num_tokens"] for each in alone] == [10, 0, 5]


async def test_a_long_text_is_cut_as_well(http: httpx.AsyncClient, announced: HandWorker) -> None:
    response = await http.post("/tokenize", json={"text": "ab" * 100_000})

    assert response.json()["num_tokens"] == 200_000


async def test_half_a_character_is_marked(http: httpx.AsyncClient, announced: HandWorker) -> None:
    ids = (await http.post("/tokenize", json={"text": "é"})).json()["token_ids"]

    response = await http.post("/detokenize", json={"token_ids": ids[:1]})

    assert response.json() == {"text": "�"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "text"),
        ("/tokenize", {"text": 3}, "text"),
        ("/tokenize", {"text": "a", "texts": ["b"]}, "texts"),
        ("/batch/tokenize", {"texts": []}, "texts"),
        ("/batch/tokenize", {"texts": ["a"] * 1025}, "texts"),
        ("/batch/tokenize", {"texts": ["a", None]}, "texts[1]"),
        ("/detokenize", {"token_ids": [-1]}, "token_ids[0]"),
        ("/detokenize", {"token_ids": [0, 256]}, "token_ids"),
    ],
)
async def test_a_bad_body_is_refused_by_the_name_of_its_field(
    http: httpx.AsyncClient, announced: HandWorker, path: str, body: object, param: str
) -> None:
    response = await http.post(path, json=body)

    assert response.status_code == 400
    assert response.json()["param"] == param


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"text": "a"}),
        ("/batch/tokenize", {"texts": ["a"]}),
        ("/detokenize", {"token_ids": [1]}),
    ],
)
async def test_an_unknown_model_is_404(
    http: httpx.AsyncClient, announced: HandWorker, path: str, body: dict[str, object]
) -> None:
    response = await http.post(path, json=body | {"model_id": "does-not-exist"})

    assert response.status_code == 404
    assert response.json()["error"] == "Model 'does-not-exist' not found"


async def test_a_model_that_no_worker_has_loaded_is_503(http: httpx.AsyncClient) -> None:
    response = await http.post("/tokenize", json={"text": "a"})

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "No worker has loaded 'baton-toy' yet" in response.json()["error"]


async def test_special_tokens_come_only_where_they_are_asked_for(
    http: httpx.AsyncClient, worker: HandWorker
) -> None:
    card = replace(fake_card(MODEL), vocab_size=257)
    worker.publish(card, byte_tokenizer(begin="<s>"))

    bare = await http.post("/tokenize", json={"text": "a"})
    whole = await http.post("/tokenize", json={"text": "a", "add_special_tokens": True})

    token_ids = whole.json()["token_ids"]
    assert token_ids == [256, *bare.json()["token_ids"]]
    shown = await http.post("/detokenize", json={"token_ids": token_ids})
    hidden = await http.post(
        "/detokenize", json={"token_ids": token_ids, "skip_special_tokens": True}
    )
    assert shown.json() == {"text": "<s>a"}
    assert hidden.json() == {"text": "a"}
