from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api.tokenizers import Tokenizers
from common.settings import Settings
from tests.fakes import fake_card
from tests.integration.api.conftest import Start
from tests.integration.api.support import AS_BOB, MODEL, HandWorker, submit

REFUSING = "{{ raise_exception('No.') if messages[0].content == 'bad' }}{{ messages[0].content }}"
BAD_GRAMMAR = {"type": "lark", "lark": "start: nothing"}


@pytest.fixture
async def strict(
    worker: HandWorker, start_app: Start, make_settings: Callable[..., Settings]
) -> httpx.AsyncClient:
    """A gateway with a burst of two submissions and so of twenty reads, which knows the model."""
    worker.publish(fake_card(MODEL, chat_template=REFUSING))
    return await start_app(make_settings(rate_limit_per_minute=1, rate_limit_burst=2))


async def test_a_submission_over_the_rate_is_429_and_says_when_to_come_again(
    strict: httpx.AsyncClient,
) -> None:
    for _ in range(2):
        await submit(strict)
    response = await strict.post("/generate", json={"prompt": "a"})
    body = response.json()
    assert response.status_code == 429
    assert (body["error"], body["status_code"]) == ("Rate limit exceeded", 429)
    assert (body["error_type"], set(body)) == (
        "RateLimitError",
        {"error", "status_code", "error_type", "request_id"},
    )
    assert 50 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["x-ratelimit-limit-requests"] == "2"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert response.headers["x-ratelimit-reset-requests"] in ("2m0s", "1m59s", "1m58s")


async def test_one_keys_rate_is_not_anothers(strict: httpx.AsyncClient) -> None:
    for _ in range(3):
        response = await strict.post("/generate", json={"prompt": "a"})
    assert response.status_code == 429
    response = await strict.post("/generate", json={"prompt": "a"}, headers=AS_BOB)
    assert response.status_code == 202


async def test_polling_never_eats_the_right_to_submit(strict: httpx.AsyncClient) -> None:
    task_id = await submit(strict)
    answers = [await strict.get(f"/status/{task_id}") for _ in range(11)]
    assert [answer.status_code for answer in answers[:10]] == [200] * 10
    assert answers[10].status_code == 429
    await submit(strict)


async def test_all_reads_of_a_key_share_ten_times_the_rate(strict: httpx.AsyncClient) -> None:
    task_id = await submit(strict)
    paths = ["/models", f"/status/{task_id}", f"/result/{task_id}", "/stream/unknown", "/models"]
    for path in paths * 2:
        assert (await strict.get(path)).status_code != 429
    response = await strict.delete(f"/tasks/{task_id}")
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["x-ratelimit-limit-requests"] == "10"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_health_and_metrics_have_no_limit(strict: httpx.AsyncClient) -> None:
    for _ in range(30):
        assert (await strict.get("/health")).status_code == 200
        assert (await strict.get("/metrics")).status_code == 200


async def statuses(http: httpx.AsyncClient, count: int, **fields: Any) -> list[int]:
    """Of as many equal submissions."""
    body = {"prompt": "a", **fields}
    return [(await http.post("/generate", json=body)).status_code for _ in range(count)]


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "bad"}, {"prompt": "x" * 5000}, {"response_format": BAD_GRAMMAR}],
    ids=["its template refuses it", "it does not fit", "its grammar is none"],
)
async def test_a_request_that_is_refused_after_work_counts_as_a_submission(
    strict: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    assert await statuses(strict, 3, **fields) == [400, 400, 429]
    assert await statuses(strict, 1) == [429]


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 3}, {"min_tokens": 5, "max_tokens": 3}, {"stop_token_ids": [5000]}],
)
async def test_a_request_that_is_refused_at_once_costs_nothing(
    strict: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    assert await statuses(strict, 5, **fields) == [400] * 5
    assert await statuses(strict, 3) == [202, 202, 429]


async def test_nothing_is_worked_out_for_a_key_that_is_known_to_be_over_its_rate(
    strict: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, num_encoded = Tokenizers.encode, 0

    async def counting(*args: Any) -> tuple[int, ...]:
        nonlocal num_encoded
        num_encoded += 1
        return await encode(*args)

    monkeypatch.setattr(Tokenizers, "encode", counting)
    # Which key is over its rate is known from the first refusal on.
    assert await statuses(strict, 6) == [202, 202, 429, 429, 429, 429]
    assert num_encoded == 3


async def test_a_repeat_is_answered_though_its_key_is_over_its_rate(
    strict: httpx.AsyncClient,
) -> None:
    named = {"headers": {"Idempotency-Key": "one"}, "json": {"prompt": "a"}}
    first = await strict.post("/generate", **named)
    assert await statuses(strict, 3) == [202, 429, 429]
    again = await strict.post("/generate", **named)
    assert (again.status_code, again.json()["task_id"]) == (202, first.json()["task_id"])
    others = {"headers": {"Idempotency-Key": "two"}, "json": {"prompt": "a"}}
    assert (await strict.post("/generate", **others)).status_code == 429
