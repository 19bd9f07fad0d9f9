"""Which server is asked next."""

from __future__ import annotations

import asyncio

import pytest

from worker.backends.upstream_pool import Upstream, UpstreamPool
from worker.backends.wire import Served, UpstreamFailure

A, B, C = "http://a/v1", "http://b/v1", "http://user:secret@c:81/v1"
AWAY = UpstreamFailure("it cannot be reached", is_away=True)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def pool_of(*urls: str, clock: Clock | None = None, **served: Served) -> UpstreamPool:
    """A pool whose servers were looked at once; those in `served` tell this, the others nothing."""
    pool = UpstreamPool(urls, "m", clock or Clock())

    async def probe(base_url: str) -> Served:
        return served.get(base_url[7:8], Served())

    await pool.look(probe)
    return pool


def server(pool: UpstreamPool, url: str) -> Upstream:
    return next(each for each in pool.upstreams if each.base_url == url)


async def test_the_one_with_the_fewest_requests_is_chosen() -> None:
    pool = await pool_of(A, B)
    with pool.asking(server(pool, A)):
        assert pool.choose() is server(pool, B)
        with pool.asking(server(pool, B)), pool.asking(server(pool, B)):
            assert pool.choose() is server(pool, A)


async def test_one_that_has_just_failed_is_chosen_only_where_there_is_no_other() -> None:
    pool = await pool_of(A, B)
    with pool.asking(server(pool, B)):
        assert pool.choose(avoid=server(pool, A)) is server(pool, B)
    alone = await pool_of(A)
    assert alone.choose(avoid=server(alone, A)) is server(alone, A)


async def test_one_that_is_away_is_not_chosen() -> None:
    pool = await pool_of(A, B)
    pool.note_failure(server(pool, A), AWAY)
    with pool.asking(server(pool, B)):
        assert pool.choose() is server(pool, B)


async def test_one_that_failed_a_single_request_stays_well() -> None:
    pool = await pool_of(A)
    pool.note_failure(server(pool, A), UpstreamFailure("it answered 500"))
    assert pool.choose() is server(pool, A)


async def test_one_that_asked_to_be_let_alone_rests_until_then() -> None:
    clock = Clock()
    pool = await pool_of(A, B, clock=clock)
    pool.note_failure(server(pool, A), UpstreamFailure("it answered 429", retry_after_s=5))
    with pool.asking(server(pool, B)):
        assert pool.choose() is server(pool, B)
        clock.now_s += 5
        assert pool.choose() is server(pool, A)


async def test_where_all_rest_one_is_chosen_all_the_same() -> None:
    pool = await pool_of(A)
    pool.note_failure(server(pool, A), UpstreamFailure("it answered 429", retry_after_s=5))
    assert pool.choose() is server(pool, A)
    assert pool.rest_s(server(pool, A)) == 5


async def test_those_that_list_the_model_come_first() -> None:
    pool = await pool_of(A, B, a=Served({"other": None}), b=Served({"m": 9}))
    with pool.asking(server(pool, B)):
        assert pool.choose() is server(pool, B)


async def test_it_is_away_when_all_are_and_says_why_without_an_address() -> None:
    pool = await pool_of(A, C)
    for upstream in pool.upstreams:
        assert pool.away is None
        pool.note_failure(upstream, AWAY)
    assert pool.choose() is None
    assert pool.away == "None of the 2 servers of the model can be used: it cannot be reached."


def test_before_the_first_look_all_are_away() -> None:
    assert UpstreamPool([A], "m").choose() is None


def test_an_address_that_stands_twice_is_one_server() -> None:
    assert len(UpstreamPool([A, A], "m").upstreams) == 1


def test_a_name_for_the_log_has_no_password() -> None:
    assert UpstreamPool([C], "m").upstreams[0].name == "c:81"


async def test_one_that_is_found_well_again_ends_the_wait() -> None:
    pool = await pool_of(A)
    pool.note_failure(server(pool, A), AWAY)
    waiting = asyncio.create_task(pool.wait_until_well())
    await asyncio.sleep(0)
    assert not waiting.done()

    async def probe(base_url: str) -> Served:
        return Served()

    await pool.look(probe)
    async with asyncio.timeout(5):
        await waiting


async def test_a_failure_has_the_server_looked_at_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.backends.upstream_pool.FIRST_ILL_PROBE_S", 0.0)
    pool = await pool_of(A)
    looked = asyncio.Event()

    async def probe(base_url: str) -> Served:
        looked.set()
        return Served()

    watch = asyncio.create_task(pool.watch(probe))
    await asyncio.sleep(0)
    assert not looked.is_set()
    pool.note_failure(server(pool, A), AWAY)
    async with asyncio.timeout(2):  # and not only after PROBE_S
        await looked.wait()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    assert pool.away is None
