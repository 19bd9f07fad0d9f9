"""What this gateway knows of workers, models and queues, at most a second old.

Polled in the background and read from memory, so that `/health` answers at once however Redis is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from api.background import forever
from common.errors import RedisUnavailableError
from common.fleet import Fleet, FleetReader
from common.model_card import ModelCard

PERIOD_S = 1.0
FRESH_S = 3.5
"""A snapshot that is older means that Redis does not answer."""
PACE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the whole fleet got done a second, by the jobs that ended while this gateway looked.

    Attributes:
        window_s: The seconds that it looked: a minute, or less after its start.
    """

    window_s: float
    requests_per_s: float
    prompt_tokens_per_s: float
    generation_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    num_tokens: int
    num_running: int
    num_prompt_tokens: int
    num_ended: int


class FleetPoller:
    """The last snapshot of the fleet and the cards of its models.

    Args:
        models: The configured ones.
        upstream_retry_s: For so long clients wait for the servers behind a model to come back.
        note_found: Takes the models that live workers have found, where any has looked.

    Attributes:
        has_polled: Set after the first look, whether Redis answered or not.
    """

    def __init__(
        self,
        reader: FleetReader,
        models: Sequence[str],
        upstream_retry_s: float = 0.0,
        note_found: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self.upstream_retry_s = upstream_retry_s
        self._configured = self._models = tuple(models)
        self._note_found = note_found
        self._fleet: Fleet | None = None
        self._cards: dict[str, ModelCard] = {}
        self._polled_at_s = 0.0
        self._samples: deque[_Sample] = deque()
        self._absent_since_s: dict[str, float] = {}
        self._away_since_s: dict[str, float] = {}
        self.has_polled = asyncio.Event()

    async def run(self) -> None:
        """Poll until cancelled."""
        await forever(self._poll_and_rest)

    async def poll(self) -> None:
        """Look once.

        Raises:
            RedisUnavailableError: Redis is away; what was known is forgotten.
        """
        try:
            fleet = await self._reader.snapshot(self._models)
            self._take_found(fleet)
            cards = await self._reader.cards(self._models)
        except RedisUnavailableError:
            self._fleet = None
            self._absent_since_s.clear()  # whoever is there cannot say so now
            self._away_since_s.clear()
            raise
        self._cards = cards
        self._fleet, self._polled_at_s = fleet, time.monotonic()
        self._sample(fleet)
        self._note_absences(fleet)

    def absent_s(self, model: str) -> float:
        """For how long no worker has announced a model; 0 where one does, loaded or loading."""
        since_s = self._absent_since_s.get(model)
        return 0.0 if since_s is None else time.monotonic() - since_s

    def away_s(self, model: str) -> float:
        """For how long no server has been there for a model that other servers run; 0: one is."""
        since_s = self._away_since_s.get(model)
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def fleet(self) -> Fleet | None:
        """The last snapshot, or None while Redis does not answer."""
        is_fresh = time.monotonic() - self._polled_at_s < FRESH_S
        return self._fleet if is_fresh else None

    async def card(self, model: str) -> ModelCard | None:
        """The card of a model, or None where no worker has ever loaded it.

        Raises:
            RedisUnavailableError: The card is not known yet, and Redis is away.
        """
        return self._cards.get(model) or await self._reader.card(model)

    def known_card(self, model: str) -> ModelCard | None:
        """The card as it was last seen, without asking."""
        return self._cards.get(model)

    @property
    def seconds_per_token(self) -> float | None:
        """Seconds that a token takes, over the last minute's ended jobs; None without any.

        Source:
            Little's law: jobs that run = tokens per second * seconds that each takes.
        """
        first, last = (self._samples[0], self._samples[-1]) if self._samples else (None, None)
        if first is None or last is None or last.num_tokens <= first.num_tokens:
            return None
        running = sum(sample.num_running for sample in self._samples) / len(self._samples)
        rate = (last.num_tokens - first.num_tokens) / (last.at_s - first.at_s)
        return running / rate

    @property
    def throughput(self) -> Throughput | None:
        """Over the last minute; None before the second look."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        window_s = last.at_s - first.at_s

        def rate(before: int, after: int) -> float:
            # An emptied Redis begins to count again.
            return max(0, after - before) / window_s

        return Throughput(
            window_s=window_s,
            requests_per_s=rate(first.num_ended, last.num_ended),
            prompt_tokens_per_s=rate(first.num_prompt_tokens, last.num_prompt_tokens),
            generation_tokens_per_s=rate(first.num_tokens, last.num_tokens),
        )

    async def _poll_and_rest(self) -> None:
        with suppress(RedisUnavailableError):
            await self.poll()
        self.has_polled.set()
        await asyncio.sleep(PERIOD_S)

    def _take_found(self, fleet: Fleet) -> None:
        # Where no live worker has looked, one may be starting anew: what it had found holds.
        if fleet.found is not None:
            self._models = (*self._configured, *sorted(fleet.found.difference(self._configured)))
            self._note_found(fleet.found)

    def _note_absences(self, fleet: Fleet) -> None:
        for model in self._models:
            if fleet.states(model):
                self._absent_since_s.pop(model, None)
            else:
                self._absent_since_s.setdefault(model, self._polled_at_s)
            if fleet.away(model) is None:
                self._away_since_s.pop(model, None)
            else:
                self._away_since_s.setdefault(model, self._polled_at_s)

    def _sample(self, fleet: Fleet) -> None:
        counters = fleet.counters
        self._samples.append(
            _Sample(
                at_s=self._polled_at_s,
                num_tokens=counters.get("generation_tokens", 0),
                num_running=fleet.running,
                num_prompt_tokens=counters.get("prompt_tokens", 0),
                num_ended=fleet.num_ended,
            )
        )
        while self._polled_at_s - self._samples[0].at_s > PACE_WINDOW_S:
            self._samples.popleft()
