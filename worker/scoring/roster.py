"""Tells the gateways which scorers this worker has, and which of its models runs each of them.

Loads no weights, and no torch: a worker announces itself before it has loaded that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from common.errors import RedisUnavailableError, ScorerError, ScorerNotFoundError
from common.fleet import FleetWriter
from common.model_catalog import CatalogEntry
from common.model_entries import Source
from common.scorers import ScorerCard, why_unserved
from worker.scoring.config import ScorerConfig
from worker.scoring.storage import ScorerFiles

PERIOD_S = 2.0

log = logging.getLogger(__name__)


class ScorerRoster:
    """What is in SCORERS_DIR, looked at every other second.

    On a thread of its own: a folder on another host may hang, and the heartbeat must not.

    Args:
        entries: The models that this worker serves.
        on_change: Called when what the worker announces has changed.

    Attributes:
        announced: As `common.fleet.WorkerInfo.scorers`; replaced, never changed.
    """

    def __init__(
        self,
        files: ScorerFiles,
        entries: Sequence[CatalogEntry],
        fleet: FleetWriter,
        on_change: Callable[[], None],
    ) -> None:
        self._files = files
        self._entries = entries
        self._fleet = fleet
        self._on_change = on_change
        self._seen: dict[str, tuple[tuple[int, ...], ScorerConfig]] = {}
        self._told: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scorers", daemon=True)
        self.announced: dict[str, str | None] = {}

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A look that hangs is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(RedisUnavailableError):
                self.look()
            self._stop.wait(PERIOD_S)

    def look(self) -> None:
        """Publish the cards of all scorers, and note what there is.

        Raises:
            RedisUnavailableError: Redis is away.
        """
        found: dict[str, str | None] = {}
        cards = []
        for name in self._names():
            try:
                config = self._config(name)
            except ScorerNotFoundError:
                continue  # it went while we looked
            except ScorerError as error:
                found[name] = error.message
                self._tell(name, error.message)
            else:
                card = self._card(name, config)
                if card is None:
                    found[name] = why_unserved(name, Source.of(config.encoder.name).model)
                else:
                    found[name] = None
                    cards.append(card)
        self._seen = {name: seen for name, seen in self._seen.items() if name in found}
        self._fleet.publish_scorers(cards)
        if found != self.announced:
            self.announced = found
            self._on_change()

    def _names(self) -> list[str]:
        try:
            return self._files.names()
        except ScorerError as error:
            self._tell("", error.message)
            return list(self._seen)

    def _card(self, name: str, config: ScorerConfig) -> ScorerCard | None:
        """The card of a scorer; None where this worker does not serve its encoder.

        Another one may, with a card that this one must not overwrite.
        """
        encoder = Source.of(config.encoder.name)
        server = self._server_of(encoder)
        if server is None:
            return None
        return ScorerCard(
            name=name,
            models=tuple(config.models),
            encoder=encoder.model,
            served_by=server,
            context_length=config.encoder.context_length,
        )

    def _config(self, name: str) -> ScorerConfig:
        """The config as it is now; as it was, where it has become broken: memory may have it."""
        stamp, config = self._seen.get(name, (None, None))
        try:
            new_stamp = self._files.stamp(name)
            if config is None or new_stamp != stamp:
                config = self._files.config(name)
        except ScorerNotFoundError:
            raise
        except ScorerError as error:
            if config is None:
                raise
            self._tell(name, error.message)
            return config
        self._seen[name] = new_stamp, config
        self._told.pop(name, None)
        return config

    def _tell(self, name: str, problem: str) -> None:
        """Once for each problem, however often it is met."""
        if self._told.get(name) != problem:
            self._told[name] = problem
            log.error("%s", problem)

    def _server_of(self, encoder: Source) -> str | None:
        """The id of the model that is the encoder; one of kind embed before one that generates."""
        found = [entry for entry in self._entries if entry.source == encoder.location]
        found.sort(key=lambda entry: entry.kind != "embed")
        return found[0].model if found else None
