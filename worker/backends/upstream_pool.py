"""The servers that run one model: who is well, who has the fewest requests, who is asked next.

A server is ill from a failure that shows it to be away until a probe finds it well; probes go on in
the background. Knows nothing about jobs or what is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from worker.backends.wire import Served, UpstreamFailure

PROBE_S = 5.0
"""Between two looks at a server that is well."""
FIRST_ILL_PROBE_S = 0.5
MOST_ILL_PROBE_S = 5.0
"""At one that is ill: ever longer, up to this."""

log = logging.getLogger(__name__)

Probe = Callable[[str], Awaitable[Served]]


class Upstream:
    """One server.

    Attributes:
        name: For the log: host and port, and nothing secret.
        served: What it last told; None before it ever did.
        problem: Why it is ill; None where it is well.
        is_missing: It is ill, for it does not have the model.
        num_running: Requests that it has from here.
        rests_until_s: It asked to be let alone until then, by the pool's clock.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        parts = urlsplit(base_url)
        self.name = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        self.served: Served | None = None
        self.problem: str | None = "it has not answered yet"
        self.is_missing = False
        self.num_running = 0
        self.rests_until_s = 0.0
        self.look_again = asyncio.Event()


class UpstreamPool:
    """All servers of one model. Used by one event loop; `away` may be read from any thread.

    Args:
        base_urls: At least one.
        model: What the servers call it.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstreams = [Upstream(url) for url in dict.fromkeys(base_urls)]
        self._model = model
        self._clock = clock
        self._is_anybody_well = asyncio.Event()

    @property
    def away(self) -> str | None:
        """Why nobody can be asked now, in one line; None where somebody can."""
        problems = [upstream.problem for upstream in self.upstreams]
        if None in problems:
            return None
        if self.lacks_model:
            return f"The server that runs the model does not have it: {problems[0]}."
        if len(problems) == 1:
            return f"The server that runs the model cannot be used: {problems[0]}."
        return f"None of the {len(problems)} servers of the model can be used: {problems[0]}."

    @property
    def lacks_model(self) -> bool:
        """Whether all servers are there, and none has the model."""
        return all(upstream.is_missing for upstream in self.upstreams)

    def choose(self, avoid: Upstream | None = None) -> Upstream | None:
        """The server to ask next; None where all are ill.

        Of those that are well and do not rest the one with the fewest requests; one that does not
        list the model comes after those that do.

        Args:
            avoid: The one that has just failed: asked only where there is no other.
        """
        now_s = self._clock()
        well = [each for each in self.upstreams if each.problem is None]

        def rank(upstream: Upstream) -> tuple[bool, bool, bool, int]:
            rests, is_known = upstream.rests_until_s > now_s, self._lists_model(upstream)
            return (rests, not is_known, upstream is avoid, upstream.num_running)

        return min(well, key=rank, default=None)

    def rest_s(self, upstream: Upstream) -> float:
        """Seconds for which a server asked to be let alone, from now."""
        return max(0.0, upstream.rests_until_s - self._clock())

    @contextmanager
    def asking(self, upstream: Upstream) -> Iterator[None]:
        """Count a request for the time of the block."""
        upstream.num_running += 1
        try:
            yield
        finally:
            upstream.num_running -= 1

    def note_failure(self, upstream: Upstream, failure: UpstreamFailure) -> None:
        """A request has failed there."""
        if failure.retry_after_s is not None:
            upstream.rests_until_s = self._clock() + failure.retry_after_s
        if failure.is_away or failure.is_denied:
            self._mark(upstream, failure)
        upstream.look_again.set()

    async def wait_until_well(self) -> None:
        """Return when a server can be asked."""
        await self._is_anybody_well.wait()

    async def look(self, probe: Probe) -> None:
        """Look at every server once."""
        await asyncio.gather(*(self._look_at(upstream, probe) for upstream in self.upstreams))

    async def watch(self, probe: Probe) -> None:
        """Look at every server again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for upstream in self.upstreams:
                tasks.create_task(self._watch(upstream, probe))

    async def _watch(self, upstream: Upstream, probe: Probe) -> None:
        ill_s = FIRST_ILL_PROBE_S
        while True:
            try:
                async with asyncio.timeout(PROBE_S if upstream.problem is None else ill_s):
                    await upstream.look_again.wait()
            except TimeoutError:
                pass
            if upstream.look_again.is_set():
                # Failures of many requests at once are one reason to look, and not at once again.
                await asyncio.sleep(FIRST_ILL_PROBE_S)
                upstream.look_again.clear()
            await self._look_at(upstream, probe)
            is_well = upstream.problem is None
            ill_s = FIRST_ILL_PROBE_S if is_well else min(2 * ill_s, MOST_ILL_PROBE_S)

    async def _look_at(self, upstream: Upstream, probe: Probe) -> None:
        try:
            upstream.served = await probe(upstream.base_url)
        except UpstreamFailure as failure:
            self._mark(upstream, failure)
            return
        if upstream.problem is not None:
            log.info("The server %s of model %s is there", upstream.name, self._model)
            if not self._lists_model(upstream):
                log.warning("The server %s does not list %s", upstream.name, self._model)
        self._set(upstream, None)

    def _mark(self, upstream: Upstream, failure: UpstreamFailure) -> None:
        if upstream.problem != failure.message:
            level = logging.ERROR if failure.is_denied else logging.WARNING
            log.log(level, "The server %s of model %s: %s", upstream.name, self._model, failure)
        self._set(upstream, failure.message, is_missing=failure.is_missing)

    def _set(self, upstream: Upstream, problem: str | None, *, is_missing: bool = False) -> None:
        upstream.problem, upstream.is_missing = problem, is_missing
        if self.away is None:
            self._is_anybody_well.set()
        else:
            self._is_anybody_well.clear()

    def _lists_model(self, upstream: Upstream) -> bool:
        models = None if upstream.served is None else upstream.served.models
        return models is None or self._model in models
