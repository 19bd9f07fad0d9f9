from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from common.settings import Settings
from tests.integration.api.conftest import Start
from tests.integration.api.support import AS_BOB, submit


@pytest.fixture
async def strict(start_app: Start, make_settings: Callable[..., Settings]) -> httpx.AsyncClient:
    """A gateway with a burst of two submissions and so of twenty reads."""
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
