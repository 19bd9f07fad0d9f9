from __future__ import annotations

import asyncio

import pytest

from api import background
from api.background import end, forever


async def test_a_step_that_fails_is_logged_and_repeated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "RESTART_S", 0)
    again = asyncio.Event()
    failures = [RuntimeError("first")]

    async def step() -> None:
        if failures:
            raise failures.pop()
        again.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(forever(step))
    await again.wait()
    await end(task)
    assert task.cancelled()
    assert "first" in caplog.text


async def test_a_task_that_loses_its_first_cancellation_is_ended_all_the_same() -> None:
    started = asyncio.Event()

    async def stubborn() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await started.wait()
    await end(task)
    assert task.cancelled()
