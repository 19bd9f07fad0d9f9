"""What clients do with the real service: gateway, Redis, worker, engine and the bundled model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.e2e.service import Service

LONG: dict[str, Any] = {"raw": True, "max_tokens": 1500, "ignore_eos": True, "seed": 5}
SHORT: dict[str, Any] = {"raw": True, "max_tokens": 40, "seed": 5}


def text_of(events: list[tuple[str | None, Any]]) -> str:
    return "".join(data["token"] for _, data in events)


def test_a_stream_put_together_is_the_result(service: Service) -> None:
    task_id = service.submit(**SHORT)
    events = list(service.events(task_id))
    assert text_of(events) == events[-1][1]["result"] == service.result(task_id)["result"]
    assert events[-1][1]["metrics"]["completion_tokens"] == 40


def test_a_late_watcher_gets_everything_from_the_start(service: Service) -> None:
    task_id = service.submit(**SHORT)
    first = list(service.events(task_id))
    late = list(service.events(task_id))
    assert text_of(late) == text_of(first)


def test_a_stream_resumes_after_any_event(service: Service) -> None:
    task_id = service.submit(**SHORT)
    whole = [(i, data) for i, data in service.events(task_id) if i is not None]
    result = service.result(task_id)["result"]
    for seen in range(1, len(whole)):
        rest = list(service.events(task_id, after=int(str(whole[seen - 1][0]))))
        assert text_of(whole[:seen]) + text_of(rest) == result


def test_the_same_seed_gives_the_same_text_alone_and_beside_others(service: Service) -> None:
    alone = service.result(service.submit(**SHORT))["token_ids"]
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(service.submit, "The little dog", max_tokens=80) for _ in range(3)]
        same = [pool.submit(service.submit, **SHORT) for _ in range(3)]
        results = [service.result(job.result())["token_ids"] for job in same]
        for job in others:
            service.result(job.result())
    assert results == [alone] * 3


def test_each_job_has_its_own_sampling_parameters(service: Service) -> None:
    greedy = {"raw": True, "max_tokens": 20, "strategy": "greedy"}
    results = [service.result(service.submit(seed=seed, **greedy))["token_ids"] for seed in (1, 2)]
    drawn = service.result(service.submit(raw=True, max_tokens=20, temperature=2, seed=1))
    assert results[0] == results[1] != drawn["token_ids"]


def test_a_stop_text_ends_the_answer_before_it(service: Service) -> None:
    text = service.result(service.submit(**SHORT))["result"]
    stop = text.split()[3]
    stopped = service.result(service.submit(stop=stop, **SHORT))
    assert (stopped["result"], stopped["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_a_running_task_is_cancelled_and_keeps_what_it_had(service: Service) -> None:
    task_id = service.submit(**LONG)
    events = service.events(task_id)
    while not (data := next(events)[1])["token"]:
        assert data["status"] in ("queued", "processing")
    with service.http() as http:
        assert http.post(f"/tasks/{task_id}/cancel").status_code in (200, 202)
    rest = list(events)
    result = service.result(task_id)
    assert (rest[-1][1]["status"], result["status"]) == ("cancelled", "cancelled")
    assert 0 < result["num_generated"] < 1500
    with service.http() as http:
        assert http.delete(f"/tasks/{task_id}").json()["status"] == "cancelled"


def test_a_waiting_task_is_cancelled_at_once(service: Service) -> None:
    # More than the batch holds, so that the last one waits.
    running = [service.submit(**LONG) for _ in range(9)]
    waiting = service.submit(priority="low", **LONG)
    with service.http() as http:
        answer = http.delete(f"/tasks/{waiting}")
        for task_id in running:
            http.delete(f"/tasks/{task_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert service.result(waiting)["num_generated"] == 0


def test_a_task_over_its_time_limit_expires_with_what_it_had(service: Service) -> None:
    result = service.result(service.submit(timeout=0.1, **LONG))
    assert (result["status"], result["state"]) == ("error", "expired")
    assert result["error_type"] == "DeadlineExceededError"
    assert result["num_generated"] < 1500


def test_a_waiting_call_gets_the_result(service: Service) -> None:
    with service.http() as http:
        answer = http.post(
            "/generate",
            headers={"Prefer": "wait=30"},
            json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50},
        )
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=30")
    assert answer.json()["status"] == "completed"


def test_a_prompt_over_the_context_is_refused_with_both_numbers(service: Service) -> None:
    with service.http() as http:
        answer = http.post("/generate", json={"prompt": "a", "raw": True, "max_tokens": 2048})
    assert answer.status_code == 400
    assert "2048" in answer.json()["error"]
    assert "2049" in answer.json()["error"]


def test_the_request_log_has_a_line_without_the_prompt(service: Service) -> None:
    task_id = service.submit("a secret prompt", max_tokens=3)
    service.result(task_id)
    # Written after the end was told to the watchers.
    while task_id not in (log := (service.log_dir / "llm_requests.log").read_text()):
        assert service.process.poll() is None
    [line] = [line for line in log.splitlines() if task_id in line]
    assert '"model": "baton-toy"' in line
    assert all("secret" not in path.read_text() for path in service.log_dir.glob("*.log"))


def test_the_stream_url_needs_no_key_and_opens_nothing_else(service: Service) -> None:
    with service.http() as http:
        answer = http.post("/generate", json={"prompt": "Hello", "max_tokens": 3}).json()
    with httpx.Client(trust_env=False) as anyone:
        assert anyone.get(answer["stream_url"]).status_code == 200
        assert anyone.get(answer["result_url"]).status_code == 401
